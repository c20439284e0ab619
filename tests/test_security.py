"""No pickle is opened and nothing reaches the network unasked.

Both are seen in the source, and by running it where both are refused.
"""

import ast
import hashlib
import importlib.util
import json
import os
import pickle
import pkgutil
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from helpers import ids_of, model_of
from test_faults import replace_config
from test_fuzz import MODELS, gguf_file_of, small_bpe
from test_tokenizer import SPECIAL
from test_trainer import CONFIG, MODEL, Trainer, replace, windows

import llmcore
from book import validate
from llmcore import checkpoint, corpus, pretrained
from llmcore.data import read_tokens, write_tokens
from llmcore.distributed import sharded
from llmcore.optim import AdamW
from llmcore.sampling import complete
from llmcore.tokenizer import formats, load

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llmcore"

# --------------------------------------------------------------------------------------------------
# pickles

# modules that open pickles
MODULES = {
    "pickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "copyreg",
    "torch.distributed.checkpoint",
}
# calls that open pickles, or run what a text says, and of which module; an empty set: of any
CALLS = {
    "load": {"torch", "np", "numpy"}, "load_state_dict_from_url": set(), "read_pickle": set(),
    "all_gather_object": set(), "gather_object": set(), "broadcast_object_list": set(),
    "scatter_object_list": set(), "send_object_list": set(), "recv_object_list": set(), "eval": {""},
    "exec": {""},
}  # fmt: skip
# (file, what): why it may
ALLOWED = {
    (
        "distributed/launch.py",
        "pickle",
    ): "between a process and the ranks it forks, in a folder that only this user can open",
    ("distributed/launch.py", "cloudpickle"): "the same: functions of a notebook cell go to the ranks",
    (
        "distributed/sharded.py",
        "torch.distributed.checkpoint",
    ): "its files hold tensors, read with weights_only; its index is JSON here",
    (
        "distributed/parallel.py",
        "all_gather_object",
    ): "random states between the ranks of one run; nothing of it is read from a disk",
}


def pickles_in(source: str) -> set[str]:
    """The modules and calls of the lists above that a source uses.

    >>> source = "import pickle as p, torch\\nfrom cloudpickle import dumps\\n"
    >>> sorted(pickles_in(source + "torch.load('x')\\nx.load('y')\\neval('1')"))
    ['cloudpickle', 'eval', 'pickle', 'torch.load']
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        found |= {m for m in MODULES for n in names if n == m or n.startswith(f"{m}.")}
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            of = ""
            if isinstance(function, ast.Attribute):
                of = function.value.id if isinstance(function.value, ast.Name) else "?"
            if name in CALLS and (not CALLS[name] or of in CALLS[name]):
                found.add(f"{of}.{name}" if name == "load" else name)
    return found


def test_the_source_opens_no_pickle_but_where_a_reason_is_given():
    found = {
        (str(p.relative_to(PACKAGE)), what)
        for p in PACKAGE.rglob("*.py")
        for what in pickles_in(p.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)


class Trap:
    """Leaves a folder where it is unpickled."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def pickles(place: Path, folder: Path) -> dict[str, bytes]:
    """A trap as torch.save and each protocol of pickle write it."""
    torch.save({"a": Trap(place)}, folder / "zip")
    torch.save({"a": Trap(place)}, folder / "old", _use_new_zipfile_serialization=False)
    made = {"torch": (folder / "zip").read_bytes(), "torch, old": (folder / "old").read_bytes()}
    return made | {f"protocol {n}": pickle.dumps(Trap(place), n) for n in range(6)}


KINDS = ["torch", "torch, old", *(f"protocol {n}" for n in range(6))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_by_another_name_is_refused(tmp_path, kind, as_a_reader_calls_it):
    """A pickle is named and not opened, whatever it is called.

    It stands for weights, a shard, a GGUF file, a tokenizer, and a checkpoint with a manifest that fits.
    """
    content = pickles(tmp_path / "ran", tmp_path)[kind]
    folder = pretrained.save(tmp_path / "m", model_of(replace_config()), "gpt2")
    (folder / "model.safetensors").write_bytes(content)
    plain = kind in ("protocol 0", "protocol 1")  # no sign at their beginning says what they are
    remedy = (
        "no whole safetensors file .*get it again"
        if plain
        else "is a pickle by another name, .*: get the safetensors file"
    )
    with pytest.raises(ValueError, match=rf"m.model.safetensors.*{remedy}"):
        pretrained.load(folder)
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "shard.safetensors"}}))
    with pytest.raises(ValueError, match=rf"shard.safetensors.*{remedy}"):
        pretrained.load(folder)
    (folder / "shard.safetensors").rename(folder / "pytorch_model.bin")
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))
    with pytest.raises(
        ValueError, match=r"index.json does not list files of this folder that end in .safetensors"
    ):
        pretrained.load(folder)
    index.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"only pytorch_model.bin, a pickle, .*: get the safetensors file"
    ):
        pretrained.load(folder)
    (tmp_path / "m.gguf").write_bytes(content)
    (tmp_path / "t.json").write_bytes(content)
    for read in (pretrained.load, load, formats.read_hugging_face, formats.read_tiktoken):
        path = tmp_path / ("m.gguf" if read is pretrained.load else "t.json")
        with pytest.raises(ValueError, match=path.name):
            read(path)
    path = checkpoint.save(tmp_path / "run", 1, model_of(MODEL))
    for name in ("model.safetensors", "state.safetensors", "state.json"):
        was = {p: p.read_bytes() for p in path.iterdir()}
        (path / name).write_bytes(content)
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(manifest | {name: entry}))
        with pytest.raises(ValueError, match=r"step-00000001.* use another checkpoint"):
            checkpoint.load(path, model_of(MODEL))
        for file, before in was.items():
            file.write_bytes(before)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickles(tmp_path / "ran", tmp_path)["protocol 4"])  # the trap is one
    assert (tmp_path / "ran").exists()


@pytest.fixture
def sharded_run(tmp_path):
    """A checkpoint in shards, by a world of one process."""
    meeting = f"file://{tmp_path / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        model = model_of(MODEL)
        path = sharded.save(tmp_path / "run", 1, model, AdamW(model.parameters()))
    finally:
        torch.distributed.destroy_process_group()
    return path, model


def forge(path: Path, name: str, content: bytes) -> None:
    """Write a file into a checkpoint, and a manifest that agrees with it."""
    (path / name).write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {name: entry}))


def test_shards_are_read_without_opening_a_pickle(sharded_run, monkeypatch):
    """torch's restricted unpickler reads the tensors; the pickle module itself is never asked."""
    path, model = sharded_run
    assert sorted(p.name for p in (path / "shards").iterdir()) == ["__0_0.distcp", "index.json"]
    for name in ("load", "loads"):
        monkeypatch.setattr(pickle, name, lambda *_, **__: pytest.fail("a pickle was opened"))
    monkeypatch.setattr(torch, "load", partial(only_weights, torch.load))
    for name, value in sharded.load_model(path).state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def only_weights(load, *arguments, **options):
    assert options["weights_only"] is True
    return load(*arguments, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_index_of_shards_is_refused_and_not_run(sharded_run, tmp_path, kind):
    """torch's index by its own name, in place of ours, and a shard; as sample and resume read them."""
    path, _ = sharded_run
    content = pickles(tmp_path / "ran", tmp_path)[kind]
    was = {name: (path / "shards" / name).read_bytes() for name in ("index.json", "__0_0.distcp")}
    for name in was:
        forge(path, f"shards/{name}", content)
        with pytest.raises(ValueError, match=r"step-00000001.* use another checkpoint"):
            sharded.load_model(path)
        forge(path, f"shards/{name}", was[name])
    sharded.load_model(path)
    forge(path, "shards/.metadata", content)
    sharded.load_model(path)  # what lies beside is not looked at
    (path / "shards" / "index.json").unlink()
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["shards/index.json"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        ValueError, match=r"has no index.json: .* has a pickle for an index, which could run any program"
    ):
        sharded.load_model(path)
    assert not (tmp_path / "ran").exists()


def hurt(index: dict, how: str) -> None:
    entry = index["model.embedding.table"]
    part = entry["parts"][0]
    {
        "another folder": lambda: part.update(file="../state.safetensors"),
        "an absolute path": lambda: part.update(file="/etc/passwd"),
        "no such file": lambda: part.update(file="__9_0.distcp"),
        "outside": lambda: part.update(offsets=[1, 0]),
        "negative": lambda: part.update(sizes=[-1, 16]),
        "a hole": lambda: part.update(sizes=[1, 16]),
        "no part": lambda: entry.update(parts=[]),
        "twice": lambda: entry.update(parts=[part, part]),
        "no type": lambda: entry.update(type="os.system"),
        "bytes": lambda: entry.pop("size"),
        "a word for a number": lambda: part.update(start="0"),
        "another tensor": lambda: part.update(start=part["start"] + 1),
        "a missing tensor": lambda: index.pop("model.embedding.table"),
    }[how]()


HURTS = [
    "another folder", "an absolute path", "no such file", "outside", "negative", "a hole", "no part", "twice",
    "no type", "bytes", "a word for a number", "another tensor", "a missing tensor",
]  # fmt: skip


@pytest.mark.parametrize("how", HURTS)
def test_an_index_of_shards_that_is_not_whole_is_refused(sharded_run, how):
    path, _ = sharded_run
    index = json.loads((path / "shards" / "index.json").read_text())
    hurt(index, how)
    forge(path, "shards/index.json", json.dumps(index).encode())
    with pytest.raises(ValueError, match=r"step-00000001.* use another checkpoint"):
        sharded.load_model(path)


def test_every_loader_works_where_no_pickle_can_be_opened(tmp_path, monkeypatch):
    """Written first; then read with pickle and torch.load out of order."""
    data = windows()
    list(
        Trainer(
            model_of(MODEL), data, replace(CONFIG, steps=4, checkpoint_every=4), folder=tmp_path / "run"
        ).run()
    )
    folders = {n: pretrained.save(tmp_path / n, model_of(c), kind) for n, (kind, c) in MODELS.items()}
    bpe = small_bpe()
    bpe.save(tmp_path / "t.json")
    formats.write_gpt2(bpe, tmp_path / "vocab.json", tmp_path / "merges.txt")
    formats.write_tiktoken(bpe, tmp_path / "ranks")
    formats.write_hugging_face(bpe, tmp_path / "hf.json")
    write_tokens(tmp_path / "t.bin", range(9), 9)
    gguf_file_of(tmp_path / "m.gguf")

    class Refused(pickle.Unpickler):
        def __init__(self, *_, **__):
            raise AssertionError("a pickle was opened")

    for module in (pickle, sys.modules["_pickle"]):
        monkeypatch.setattr(module, "Unpickler", Refused)
        monkeypatch.setattr(module, "load", Refused)
        monkeypatch.setattr(module, "loads", Refused)
    monkeypatch.setattr(torch, "load", Refused)
    monkeypatch.setattr(torch.serialization, "load", Refused)
    monkeypatch.setattr(np, "load", Refused)
    with pytest.raises(AssertionError, match="a pickle was opened"):
        pickle.loads(pickle.dumps(1))

    Trainer(
        model_of(MODEL), windows(), replace(CONFIG, steps=4, checkpoint_every=4), folder=tmp_path / "run"
    ).resume()
    assert checkpoint.load_model(tmp_path / "run")(ids_of(1, 3)).shape == (1, 3, 23)
    for folder in folders.values():
        pretrained.load(folder)
    model, tokenizer = pretrained.load(tmp_path / "m.gguf")
    complete(model, [tokenizer.encode("low")[:3]], 2, greedy=True)
    texts = [
        load(tmp_path / "t.json"),
        formats.read_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt", bpe.pattern, tuple(SPECIAL)),
        formats.read_tiktoken(tmp_path / "ranks", bpe.pattern),
        formats.read_hugging_face(tmp_path / "hf.json"),
    ]  # fmt: skip
    assert all(t.encode("the low well") == bpe.encode("the low well") for t in texts)
    assert len(read_tokens(tmp_path / "t.bin")[0]) == 9
    assert corpus.fables() and list(corpus.stories(2))  # noqa: PT018


# --------------------------------------------------------------------------------------------------
# pins


def test_every_file_that_builds_the_book_is_known_by_its_hash():
    """The versions of constraints.txt, a hash for each package, no torch: `make lock` writes the list."""
    text = (ROOT / "requirements-book.txt").read_text(encoding="utf-8")
    entries = re.findall(
        r"^([\w.-]+)==(\S+)(?: ;[^\\]*)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", text, re.MULTILINE
    )
    assert len(entries) == sum(line[:1].isalnum() for line in text.splitlines()) > 80
    locked = {name.lower(): version for name, version, _ in entries}
    wanted = re.findall(
        r"^([\w-]+)", (ROOT / "requirements-book.in").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {name.lower() for name in wanted} <= set(locked)
    assert not {"torch", "transformers", "llmcore"} & set(locked)
    pinned = dict(
        re.findall(
            r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    different = {n: (v, locked[n.lower()]) for n, v in pinned.items() if locked.get(n.lower(), v) != v}
    assert not different, f"run make lock: {different}"


# --------------------------------------------------------------------------------------------------
# network

ALONE = """
import importlib, json, socket, sys

def refuse(*a, **k):
    raise SystemExit(f"the network was asked for: {a}")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
socket.gethostbyname = refuse
modules, cells = json.load(open(sys.argv[1]))
for name in modules:
    importlib.import_module(name)
for chapter, sources in cells.items():
    for source in sources:
        exec(compile(source, chapter, "exec"), {"__name__": "__main__"})
try:
    socket.getaddrinfo("localhost", 80)
except SystemExit:
    print("alone")
"""


def first_cells() -> dict[str, list[str]]:
    """The Colab cell and the imports of each chapter."""
    found = {}
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        found[path.stem] = [c.replace("%matplotlib inline", "") for c in code[:2]]
    return found


@pytest.mark.slow
def test_no_import_and_no_first_cell_reaches_out(tmp_path):
    """Every module and the first cells of every chapter run with the network refused and in an empty one."""
    modules = [m.name for m in pkgutil.walk_packages(llmcore.__path__, "llmcore.")]
    if importlib.util.find_spec("triton") is None:
        modules.remove("llmcore.tiled_triton")
    modules.remove("llmcore.__main__")
    assert len(modules) > 50
    (tmp_path / "what.json").write_text(json.dumps([modules, first_cells()]))
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, str(tmp_path / "alone.py"), str(tmp_path / "what.json")]
    apart = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") and subprocess.run([*apart, "true"], capture_output=True).returncode == 0:
        command = [*apart, *command]
    env = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "alone\n"), done.stderr[-2000:]


# the chapters that bring something from the network, and what: packages and files with weights
REACH_OUT = {"3-2-generation": {"smollm2"}, "3-3-real-weights": {"smollm2", "minilm", "gpt2"}}
ASKS = {
    "load",
    "read_text",
    "open_text",
    "download",
    "urlopen",
    "urlretrieve",
    "get",
    "from_pretrained",
    "hf_hub_download",
}


def brought(source: str) -> set[str]:
    """The texts, weights and addresses that a cell downloads.

    >>> sorted(brought("pretrained.load('gpt2')\\npretrained.REAL['minilm'].find()\\nread_text('https://a.b/c')\\nfolder.get('gpt2x')"))
    ['gpt2', 'https://a.b/c', 'minilm']
    """
    known, found = {*pretrained.REAL, *corpus.DATASETS}, set()
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Subscript)
            and "REAL" in ast.unparse(node.value)
            and isinstance(node.slice, ast.Constant)
        ):
            found.add(node.slice.value)
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "shakespeare":
            found.add(name)
        words = (
            [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if name in ASKS
            else []
        )
        found |= {w for w in words if w in known or w.startswith(("http://", "https://", "ftp://"))}
    return found


def test_the_chapters_that_reach_out_are_known_and_none_does_in_a_check():
    """Only llmcore.download and pretrained.Wheel use the network.

    Both refuse under LLMCORE_OFFLINE, which the runs of nbval set.
    """
    found = {}
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = nbformat.read(path, 4).cells
        names = set().union(
            *(brought(re.sub("^[%!]", "#", c.source, flags=re.M)) for c in cells if c.cell_type == "code")
        )
        if names:
            found[path.stem] = names
            said = "\n".join(c.source for c in cells if c.cell_type == "markdown").lower()
            assert any(word in said for word in ("download", "network", "python package")), (
                f"{path.stem} brings {names} and does not say so"
            )
    assert found == REACH_OUT
    assert validate.QUIET["LLMCORE_OFFLINE"] == "1"
    out = {str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob("*.py") if imported(p)}
    assert out == {
        "download.py",
        "pretrained/sources.py",
        "distributed/launch.py",
    }  # the last starts ranks, which meet in a file


def imported(path: Path) -> set[str]:
    """Modules by which a source could reach out.

    >>> sorted(imported(PACKAGE / "download.py"))
    ['http.client', 'urllib.request']
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names |= {a.name for a in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    return names & {
        "urllib.request",
        "subprocess",
        "socket",
        "http.client",
        "requests",
        "httpx",
        "huggingface_hub",
        "aiohttp",
    }
