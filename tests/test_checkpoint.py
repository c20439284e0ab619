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


def test_everything_comes_back_with_the_random_states(
    tmp_path, as_a_reader_calls_it
):  # the shape checks draw numbers too
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
    assert sorted(p.name for p in path.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "state.json",
        "state.safetensors",
    ]


def test_the_last_k_stay_and_leftovers_go(tmp_path):
    model, optimizer = trained()
    (tmp_path / ".writing-1").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for step in range(5):
        checkpoint.save(tmp_path, step, model, optimizer, keep_checkpoints=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".lock",
        "notes.txt",
        "step-00000003",
        "step-00000004",
    ]
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
    with pytest.raises(
        ValueError, match=name if name == "manifest.json" and harm != "flip" else "json|safetensors"
    ):
        checkpoint.load_model(tmp_path)


def test_another_config_is_named_field_by_field(tmp_path):
    checkpoint.save(tmp_path, 1, *trained())
    with pytest.raises(
        ValueError,
        match="belongs to another config: n_layers=2 there, 3 here; norm='layer' there, 'rms' here",
    ):
        checkpoint.load(tmp_path, model_of(MODEL.with_(n_layers=3, norm="rms")))


def test_another_model_is_named(tmp_path):
    checkpoint.save(tmp_path, 1, torch.nn.Linear(2, 3))
    with pytest.raises(
        ValueError, match=r"does not fit the model: \['weight'\] are missing, surplus or of another shape"
    ):
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
    with pytest.raises(FileNotFoundError, match="does not exist, so it holds no checkpoint"):
        checkpoint.latest(tmp_path)


def test_steps_of_more_than_eight_digits_are_found_and_come_last(tmp_path):
    model = torch.nn.Linear(2, 3)
    steps = [99_999_998, 99_999_999, 10**8, 10**8 + 1, 10**9, 10**12]
    for step in steps:
        assert checkpoint.save(tmp_path, step, model, keep_checkpoints=9).is_dir()
    assert [checkpoint.step_of(p) for p in checkpoint.checkpoints(tmp_path)] == steps
    assert checkpoint.load(tmp_path, model)["step"] == 10**12
    (tmp_path / "step-000000042").mkdir()  # no name that save gives
    assert checkpoint.step_of(checkpoint.latest(tmp_path)) == 10**12


def test_a_step_before_those_that_are_there_is_refused(tmp_path):
    """It would be the oldest, be removed at once, and its path would lead nowhere."""
    model = torch.nn.Linear(2, 3)
    for step in (7, 8, 9):
        checkpoint.save(tmp_path, step, model)
    with pytest.raises(
        ValueError, match="step-00000009 is later than step 2: resume from it, or write to another folder"
    ):
        checkpoint.save(tmp_path, 2, model)
    with pytest.raises(ValueError, match="step=-1: steps count from 0"):
        checkpoint.save(tmp_path, -1, model)
    assert [checkpoint.step_of(p) for p in checkpoint.checkpoints(tmp_path)] == [7, 8, 9]


class Shared(torch.nn.Module):
    """A matrix under two names, and two buffers that are parts of one memory."""

    def __init__(self):
        super().__init__()
        self.table, self.out = torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(3, 4, bias=False)
        self.out.weight = self.table.weight
        whole = torch.randn(6)
        self.register_buffer("first", whole[:3])
        self.register_buffer("last", whole[2:])


def test_shared_weights_are_saved_and_stay_shared(tmp_path):
    model, other = Shared(), Shared()
    checkpoint.save(tmp_path, 1, model, torch.optim.SGD(model.parameters(), lr=0.1))
    checkpoint.load(tmp_path, other)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert other.out.weight is other.table.weight


def test_what_a_checkpoint_cannot_hold_is_named_and_nothing_is_written(tmp_path):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.LBFGS(model.parameters())
    optimizer.step(lambda: (lambda loss: (loss.backward(), loss)[1])(model(torch.ones(1, 2)).square().sum()))
    with pytest.raises(
        ValueError,
        match=r"the optimizer keeps (old_dirs|old_stps|ro|al) of parameter 0 as a list, as LBFGS does: ",
    ):
        checkpoint.save(tmp_path, 1, model, optimizer)
    with pytest.raises(
        ValueError, match="may hold numbers, texts, lists and dicts, not a Tensor: leave it out"
    ):
        checkpoint.save(tmp_path, 1, model, extra={"mean": torch.ones(1)})
    with torch.device("meta"):
        nothing = torch.nn.Linear(2, 3)
    with pytest.raises(
        ValueError, match="weight is on the meta device, where a tensor has no values: make the model on cpu"
    ):
        checkpoint.save(tmp_path, 1, nothing)
    assert list(tmp_path.iterdir()) == []
    checkpoint.save(tmp_path, 1, model)
    with pytest.raises(ValueError, match="weight is on the meta device"):
        checkpoint.load(tmp_path, nothing)


def test_a_folder_that_is_none_is_told_what_it_is(tmp_path):
    model = torch.nn.Linear(2, 3)
    path = checkpoint.save(tmp_path / "run", 1, model)
    (tmp_path / "file").write_text("x")
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for name, said in {
        "nowhere": "does not exist, so it holds no checkpoint",
        "file": "is a file and holds no checkpoint: name the folder of a run",
        "published": "holds no checkpoint but published weights: read them by llmcore.pretrained.load",
        "empty": "holds no checkpoint: train with checkpoint_every",
    }.items():
        with pytest.raises(FileNotFoundError, match=said):
            checkpoint.load(tmp_path / name, model)
    path.rename(tmp_path / "copy")  # under another name it is one still
    assert checkpoint.load(tmp_path / "copy", model)["step"] == 1
