"""Each epoch reads every window once; a saved position continues; ranks together read what one would."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcore.data import Windows, collate, read_tokens, write_tokens

TOKENS = np.arange(1001, dtype=np.uint16) % 97


def windows(**changes) -> Windows:
    return Windows(
        **{"tokens": TOKENS, "context_length": 10, "batch_size": 7, "vocab_size": 97, "seed": 3} | changes
    )


def test_targets_are_the_next_ids():
    batch = windows().next()
    assert batch.ids.shape == batch.targets.shape == (7, 10)
    assert torch.equal((batch.ids + 1) % 97, batch.targets)


def test_an_epoch_reads_every_window_once_and_the_next_in_another_order():
    data = windows(tokens=np.arange(1001) * 1, vocab_size=1001, batch_size=10)
    starts = [
        [int(b.ids[i, 0]) for b in (data.next() for _ in range(10)) for i in range(10)] for _ in range(2)
    ]
    assert sorted(starts[0]) == sorted(starts[1]) == [10 * i for i in range(100)]
    assert starts[0] != starts[1]
    assert data.epoch == 2


def test_10_000_samples_in_batches_of_50_are_200_iterations():
    assert windows(tokens=np.zeros(100_001, int), batch_size=50).batches_per_epoch == 200


@pytest.mark.parametrize("after", [0, 5, 14, 20])
def test_a_position_is_resumed_in_the_middle_of_an_epoch(after):
    data = windows()
    for _ in range(after):
        data.next()
    state = json.loads(json.dumps(data.state()))
    expected = [data.next().ids for _ in range(20)]
    again = windows()
    again.load(state)
    assert all(torch.equal(again.next().ids, ids) for ids in expected)


def test_ranks_together_read_what_one_process_reads():
    one, ranks = windows(batch_size=8), [windows(batch_size=8, rank=r, world=4) for r in range(4)]
    for _ in range(30):
        together = torch.cat([r.next().ids for r in ranks])
        assert sorted(together.tolist()) == sorted(one.next().ids.tolist())


def test_once_reads_all_and_moves_nothing():
    data = windows()
    seen = torch.cat([b.targets for b in data.once()]).flatten()
    assert torch.equal(seen, torch.from_numpy(TOKENS[1:].astype(np.int64)))
    assert data.state()["batch"] == 0


@given(st.lists(st.integers(0, 69_999), min_size=1, max_size=300), st.integers(1, 50))
def test_tokens_survive_the_disk(tmp_path_factory, ids, chunk):
    path = tmp_path_factory.mktemp("tokens") / "t.bin"
    assert write_tokens(path, iter(ids), 70_000, chunk) == len(ids)
    back, vocab_size = read_tokens(path)
    assert (back.tolist(), vocab_size) == (ids, 70_000)
    assert back.dtype == np.uint32
    assert not back.flags.writeable


def test_a_small_vocabulary_takes_16_bits(tmp_path):
    write_tokens(tmp_path / "t", [65_535], 65_536)
    assert read_tokens(tmp_path / "t")[0].dtype == np.uint16


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"id 9 is outside 0\.\.8"):
        write_tokens(tmp_path / "t", [1, 9], 9)
    with pytest.raises(ValueError, match="id -1 is outside"):
        write_tokens(tmp_path / "t", [-1], 9)
    assert list(tmp_path.iterdir()) == []


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "t"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_tokens(path)
    write_tokens(path, range(9), 9)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="17 bytes, 9 ids need 18: it is cut short"):
        read_tokens(path)
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ValueError, match="is no header"):
        read_tokens(path)
    write_tokens(path, [], 9)
    with pytest.raises(ValueError, match="holds no ids"):
        read_tokens(path)


CHANGES = {
    "digest": {"tokens": np.where(np.arange(1001) == 500, (TOKENS + 1) % 97, TOKENS)},
    "shuffle": {"shuffle": False},
    "context_length": {"context_length": 9, "tokens": TOKENS[:901]},
    "batch_size": {"batch_size": 8},
    "seed": {"seed": 4},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_position_is_taken_up_only_in_the_same_data(name):
    """One id of a thousand is another: as many windows, and not the same run."""
    there, here = windows(), windows(**CHANGES[name])
    assert here.count == there.count
    with pytest.raises(
        ValueError,
        match=rf"{'other ids: their SHA-256' if name == 'digest' else name}.* in the saved position",
    ):
        here.load(there.state())
    assert here.state() == windows(**CHANGES[name]).state()


def test_the_digest_is_that_of_the_ids_in_whatever_type(tmp_path):
    write_tokens(tmp_path / "t", TOKENS.tolist(), 70_000)
    kinds = [
        TOKENS,
        TOKENS.astype(np.int64),
        TOKENS.astype(">u4"),
        TOKENS.tolist(),
        read_tokens(tmp_path / "t")[0],
    ]
    assert {windows(tokens=kind).digest for kind in kinds} == {
        hashlib.sha256(TOKENS.astype(np.uint8).tobytes()).hexdigest()
    }


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="10 tokens with context_length=10: a window takes 11"):
        windows(tokens=TOKENS[:10])
    with pytest.raises(ValueError, match=r"id 96 is outside 0\.\.49"):
        windows(vocab_size=50)
    with pytest.raises(ValueError, match="id -3 is outside"):
        windows(tokens=np.array([-3] * 100))
    with pytest.raises(ValueError, match="batch_size=101 with 100 windows"):
        windows(batch_size=101)
    with pytest.raises(ValueError, match="world must divide the batch"):
        windows(world=2)
    with pytest.raises(ValueError, match="one row of whole numbers"):
        windows(tokens=np.zeros(100))
    with pytest.raises(ValueError, match="seed=3 here, 4 in the saved position"):
        windows().load(windows(seed=4).state())
    with pytest.raises(ValueError, match="no next token to predict"):
        collate([[1]])
