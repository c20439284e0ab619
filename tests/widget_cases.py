"""Every widget with every argument, and the same with one place of one argument replaced by an odd value."""

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from llmcore.config import TOY
from llmcore.planning.plan import Plan
from llmcore.tokenizer import BPETokenizer, CharTokenizer
from llmcore.toy import IDS, toy_model
from llmcore.trace import trace
from llmcore.widgets.attention import AttentionInspector
from llmcore.widgets.base import Widget
from llmcore.widgets.gallery import WIDGETS
from llmcore.widgets.operation import OperationInspector

TEXT = "the old fox and the young fox met at the old well"
X = np.arange(8.0).reshape(2, 4) - 3
HEADS = X.reshape(2, 2, 2)
LONG = np.sin(np.arange(2 * 2 * 2100.0)).reshape(2, 2, 2100)  # so large that it is reduced, as a note says
WORDS = ["w0", "w1", "w2", "w3"]


def _traced() -> dict[str, torch.Tensor]:
    model = toy_model()
    with trace(model) as seen, torch.no_grad():
        model(torch.tensor([IDS]))
    return {path: seen[path] for path in seen if ".attention." in path}


def _operand() -> tuple[np.ndarray, str, list]:
    return (X, "operand", [WORDS[:2], WORDS])


TRACED = _traced()
ROWS = {"rows": WORDS[:2], "columns": WORDS, "result": None, "caption": "caption"}
# every argument of every widget; test_every_argument_has_an_example fails where one is missing
EXAMPLES: dict[Callable[..., Widget], dict[str, Any]] = {
    WIDGETS["attention"]: {
        "layers": {"layer": (HEADS, HEADS)}, "tokens": WORDS[:2], "key_tokens": WORDS[2:], "causal": True,
        "real": (0, 2), "caption": "caption",
    },
    AttentionInspector.from_trace: {
        "traced": TRACED, "tokens": [f"t{i}" for i in range(6)], "key_tokens": [f"k{i}" for i in range(6)],
        "stack": "decoder", "cross": False, "batch": 0, "causal": True, "real": (0, 6), "caption": "caption",
    },
    WIDGETS["collective"]: {
        "collective": "tree reduce", "ranks": 3, "values": np.eye(4), "n_bytes": 1000, "latency": 1e-6,
        "bandwidth": 1e9, "caption": "caption",
    },
    WIDGETS["matrix"]: {
        "values": LONG, "name": "name", "labels": [WORDS[:2], WORDS[2:], None],
        "axes": ["in", "down", "across"], "scale": "diverging", "caption": "caption",
    },
    WIDGETS["pipeline"]: {
        "schedule": "interleaved", "stages": 2, "microbatches": 4, "chunks": 2, "forward": 1.0,
        "backward": 2.0, "caption": "caption",
    },
    WIDGETS["planner"]: {
        "model": "a", "plan": Plan(), "B": 1, "T": 8, "hardware": "h100", "efficiency": 0.5,
        "models": {"a": TOY, "b": TOY}, "caption": "caption",
    },
    WIDGETS["position"]: {
        "d_model": 8, "positions": 12, "base": 100.0, "q": [1.0, 0.5, 0.2, 0.1], "k": [0.1, 0.2, 0.3, 0.4],
        "view": "rotary", "caption": "caption",
    },
    WIDGETS["race"]: {
        "land": "valley", "condition": 10.0, "steps": 20, "lr": {"sgd": 0.1}, "caption": "caption",
    },
    WIDGETS["sampling"]: {"logits": [1.0, 2.0, -1.0], "tokens": WORDS[:3], "caption": "caption"},
    WIDGETS["surface"]: {
        "points": [(0.0, 1.0), (1.0, 2.0)], "start": (0.5, 0.5), "lr": 0.1, "span": 3.0, "around": (1.0, 1.0),
        "caption": "caption",
    },
    WIDGETS["tokenizer"]: {
        "tokenizers": {
            "pairs": BPETokenizer.train([TEXT], 270),
            "characters": CharTokenizer.train([TEXT], special_tokens=["<unk>"]),
        },
        "text": TEXT, "samples": {"sample": "a fox"}, "caption": "caption",
    },
    WIDGETS["trace"]: {
        "traced": {"a.b": X, "a.c": X.T}, "tokens": WORDS, "batch": 0, "caption": "caption", "path": "a.b",
    },
    WIDGETS["training"]: {
        "parameters": {name: p.numpy() for name, p in toy_model().state_dict().items()}, "ids": list(IDS),
        "vocabulary": {i: f"v{i}" for i in IDS}, "n_heads": 2, "norm_eps": 1e-5, "lr": 0.5,
        "caption": "caption",
    },
    WIDGETS["vocabulary"]: {
        "tokenizers": {"pairs": BPETokenizer.train([TEXT], 270)}, "text": TEXT, "held_out": TEXT,
        "caption": "caption",
    },
    OperationInspector: {
        "op": "transpose", "operands": {"A": _operand()}, "result": (X.T, "result", [WORDS, WORDS[:2]]),
        "options": {"unused": 1}, "caption": "caption",
    },
    OperationInspector.matmul: {
        "A": X, "B": X.T, "bias": X[0, :2], "names": ["A", "B", "y", "b"], "rows": WORDS[:2], "inner": WORDS,
        "columns": WORDS[2:], "result": None, "caption": "caption",
    },
    OperationInspector.one_hot: {
        "ids": [1, 0, 1], "E": X, "names": ["hot", "E", "x"], "rows": WORDS[:3], "entries": WORDS[:2],
        "columns": WORDS, "result": None, "caption": "caption",
    },
    OperationInspector.add: {"A": X, "B": X, "names": ["A", "B", "sum"], **ROWS},
    OperationInspector.softmax: {"x": X, "names": ["x", "p"], **ROWS},
    OperationInspector.layer_norm: {
        "x": X, "weight": X[0], "bias": X[1], "eps": 1e-5, "names": ["x", "n"], **ROWS,
    },
    OperationInspector.rms_norm: {"x": X, "weight": X[0], "eps": 1e-5, "names": ["x", "n"], **ROWS},
    OperationInspector.scores: {
        "q": HEADS, "k": HEADS, "causal": True, "names": ["Q", "K", "scores"], **ROWS, "columns": WORDS[2:],
    },
    OperationInspector.transpose: {"x": X, "names": ["x", "t"], **ROWS},
    OperationInspector.split_heads: {
        "x": X, "n_heads": 2, "names": ["x", "heads"], "rows": WORDS[:2], "result": None,
        "caption": "caption",
    },
    OperationInspector.concat_heads: {
        "heads": HEADS, "names": ["heads", "x"], "rows": WORDS[:2], "result": None, "caption": "caption",
    },
    OperationInspector.relu: {"x": X, "names": ["x", "y"], **ROWS},
}  # fmt: skip


def makers() -> list[Callable[..., Widget]]:
    """Every way to make a widget: the classes and their public class methods."""
    found: list[Callable[..., Widget]] = []
    for cls in dict.fromkeys(WIDGETS.values()):
        methods = [name for name, member in vars(cls).items() if isinstance(member, classmethod)]
        found += [cls, *(getattr(cls, name) for name in methods if not name.startswith("_"))]
    return found


def parameters(make: Callable[..., Widget]) -> list[str]:
    return [name for name in inspect.signature(make).parameters if name != "self"]


def called(make: Callable[..., Widget]) -> str:
    return make.__qualname__


class Odd:
    """Neither text nor number nor list, and without a representation."""

    def __repr__(self):
        raise RuntimeError("no representation")

    __str__ = __repr__


def endless() -> Iterator[int]:
    while True:
        yield 1


# odd values, as careless or heavy use passes them; each function makes a new one
WEIRD: dict[str, Callable[[], Any]] = {
    "None": lambda: None, "True": lambda: True, "-1": lambda: -1, "0": lambda: 0, "1": lambda: 1,
    "3": lambda: 3, "10^6": lambda: 10**6, "2^60": lambda: 2**60, "-2^63": lambda: -(2**63),
    "2^64": lambda: 2**64, "10^400": lambda: 10**400, "10^5000": lambda: 10**5000, "0.5": lambda: 0.5,
    "-0.5": lambda: -0.5, "1e-300": lambda: 1e-300, "1e300": lambda: 1e300, "NaN": lambda: float("nan"),
    "inf": lambda: float("inf"), "-inf": lambda: float("-inf"), "3j": lambda: 3j,
    "np.float32 NaN": lambda: np.float32("nan"), "np.int64": lambda: np.int64(2),
    "tensor": lambda: torch.tensor(2.0), "meta tensor": lambda: torch.ones(2, 4, device="meta"),
    "sparse tensor": lambda: torch.eye(2).to_sparse(), "text": lambda: "x", "empty text": lambda: "",
    "long text": lambda: "x" * 10**6, "surrogate": lambda: "a\ud800b", "NUL": lambda: "a\0b",
    "zero width": lambda: "\u200b", "right to left": lambda: "\u202eabc \u05d0\u05d1", "bytes": lambda: b"x",
    "list": list, "[[]]": lambda: [[]], "[None]": lambda: [None], "[1, 2]": lambda: [1, 2],
    "ragged": lambda: [[1, 2], [3]], "10^6 numbers": lambda: [1] * 10**6, "10^6 texts": lambda: ["x"] * 10**6,
    "[NaN, inf]": lambda: [float("nan"), float("inf")], "long texts": lambda: ["x" * 10**5, "y" * 10**5],
    "surrogates": lambda: ["\ud800", "\udc00"], "dict": dict, "{'': None}": lambda: {"": None},
    "{0: 0}": lambda: {0: 0}, "set": lambda: {1, 2}, "endless": endless, "object": object, "Odd": Odd,
    "[Odd]": lambda: [Odd(), Odd()], "type": lambda: int, "5 axes": lambda: np.ones((1, 1, 1, 1, 1)),
    "no numbers": lambda: np.zeros((0, 3)), "10^12 numbers": lambda: np.broadcast_to(1.0, (10**6, 10**6)),
    "10^6 x 1": lambda: np.ones((10**6, 1)), "1 x 3000": lambda: np.ones((1, 3000)),
    "NaNs": lambda: np.full((2, 4), np.nan), "1e308": lambda: np.full((2, 4), 1e308),
    "complex": lambda: np.ones((2, 4), complex), "dates": lambda: np.zeros(2, "M8[s]"),
    "masked": lambda: np.ma.masked_less(X, 0), "structured": lambda: np.zeros(2, "i4,f4"),
    "uint64": lambda: np.full((2, 4), 2**64 - 1, np.uint64),
    "longdouble": lambda: np.full((2, 4), np.finfo(np.longdouble).max),
}  # fmt: skip


def places(value: Any, text: bool) -> Iterator[tuple]:
    """The paths to the leaves of lists, tuples and dicts; with `text` only to texts, including keys."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if text and isinstance(key, str):
                yield (("key", key),)
            yield from (((("at", key), *rest)) for rest in places(inside, text))
    elif isinstance(value, list | tuple):
        for i, inside in enumerate(value):
            yield from (((("at", i), *rest)) for rest in places(inside, text))
    elif isinstance(value, str) or not text:
        yield ()


def changed(value: Any, path: tuple, new: Any) -> Any:
    """A copy with another value, or key, at a place."""
    if not path:
        return new
    (how, where), *rest = path
    if how == "key":
        return {new if key == where else key: inside for key, inside in value.items()}
    out = copy.copy(value) if isinstance(value, dict) else list(value)
    out[where] = changed(value[where], tuple(rest), new)
    return tuple(out) if isinstance(value, tuple) else out


def careless(make: Callable[..., Widget]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each argument, and the first place inside it, replaced by each odd value."""
    example = EXAMPLES[make]
    for name in parameters(make):
        inside = [path for path in places(example[name], text=False) if path][:1]
        for path in [(), *inside]:
            for what, odd in WEIRD.items():
                if path and "10^6" in what:
                    continue  # heavy, and the same check as for the whole argument
                arguments = example | {name: changed(example[name], path, odd())}
                yield f"{name}{list(path) or ''}={what}", arguments


def texts(make: Callable[..., Widget], hostile: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each text in each argument, including names and labels inside it, replaced by a hostile one."""
    example = EXAMPLES[make]
    for name in parameters(make):
        for path in places(example[name], text=True):
            yield f"{name}{list(path) or ''}", example | {name: changed(example[name], path, hostile)}
