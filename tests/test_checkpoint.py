"""What is read is what was written, or the file that is not whole is named."""

import json
import shutil

import pytest
import torch
from helpers import BASE, ids_of, model_of

from llmcore import checkpoint
from llmcore.functional import cross_entropy
from llmcore.optim import AdamW

MODEL = BASE.with_(tied=True)


def trained(seed=0):
    model = model_of(MODEL, seed)
    optimizer = AdamW(model.parameters())
    cross_entropy(model(ids_of(2, 5)), ids_of(2, 5)).backward()
    optimizer.step()
    return model, optimizer


def test_everything_comes_back_with_the_random_states(tmp_path, as_a_reader_calls_it):  # the shape checks draw numbers too
    import random

    import numpy as np

    model, optimizer = trained()
    path = checkpoint.save(tmp_path, 7, model, optimizer, {"data": {"epoch": 2}})
    draws = lambda: (torch.rand(2).tolist(), np.random.rand(), random.random())  # noqa: NPY002
    expected = draws()
    other, other_optimizer = trained(1)
    values = checkpoint.load(path, other, other_optimizer)
    assert draws() == expected
    assert (values["step"], values["extra"]) == (7, {"data": {"epoch": 2}})
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(optimizer.state[p]["v"], other_optimizer.state[q]["v"])
    ids = ids_of(2, 5)
    assert torch.equal(checkpoint.load_model(tmp_path).eval()(ids), model(ids))


def test_there_is_no_pickle_in_it(tmp_path):
    path = checkpoint.save(tmp_path, 1, *trained())
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "model.safetensors", "state.json", "state.safetensors"]


def test_the_last_k_stay_and_leftovers_go(tmp_path):
    model, optimizer = trained()
    (tmp_path / ".writing-1").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for step in range(5):
        checkpoint.save(tmp_path, step, model, optimizer, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "step-00000003", "step-00000004"]
    assert checkpoint.latest(tmp_path).name == "step-00000004"
    with pytest.raises(ValueError, match="step-00000004 exists: resume from it"):
        checkpoint.save(tmp_path, 4, model)


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_harm_to_any_file_is_named(tmp_path, name, harm):
    path = checkpoint.save(tmp_path, 1, *trained())
    file = path / name
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(ValueError, match=name if name == "manifest.json" and harm != "flip" else "json|safetensors"):
        checkpoint.load_model(tmp_path)


def test_another_config_is_named_field_by_field(tmp_path):
    checkpoint.save(tmp_path, 1, *trained())
    with pytest.raises(ValueError, match="belongs to another config: n_layers=2 there, 3 here; norm='layer' there, 'rms' here"):
        checkpoint.load(tmp_path, model_of(MODEL.with_(n_layers=3, norm="rms")))


def test_another_model_is_named(tmp_path):
    checkpoint.save(tmp_path, 1, torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"does not fit the model: \['weight'\] are missing, surplus or of another shape"):
        checkpoint.load(tmp_path, torch.nn.Linear(3, 3))
    with pytest.raises(ValueError, match="holds no config"):
        checkpoint.load_model(tmp_path)
    model = torch.nn.Linear(2, 3)
    with pytest.raises(ValueError, match="holds no optimizer"):
        checkpoint.load(tmp_path, model, AdamW(model.parameters()))


def test_another_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    path = checkpoint.save(tmp_path, 1, *trained())
    assert json.loads((path / "state.json").read_text())["format"] == 2
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        checkpoint.load_model(tmp_path)


def test_a_failed_write_leaves_the_older_one(tmp_path, monkeypatch):
    model, optimizer = trained()
    checkpoint.save(tmp_path, 1, model, optimizer)
    monkeypatch.setattr(checkpoint, "_fsync", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, 2, model, optimizer)
    assert checkpoint.latest(tmp_path).name == "step-00000001"
    checkpoint.load_model(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.latest(tmp_path)
