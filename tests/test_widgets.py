"""Widgets: what they ship, what they refuse, and that text stays text in every home."""

import html
import json
import re

import numpy as np
import pytest
import torch

from llmcore.config import TOY
from llmcore.corpus import END
from llmcore.distributed.schedules import COLLECTIVES
from llmcore.planning import MODELS, Plan
from llmcore.tokenizer import BPETokenizer, CharTokenizer, WordTokenizer
from llmcore.toy import IDS, TOKENS, toy_model
from llmcore.trace import trace
from llmcore.widgets import (
    WIDGETS,
    AttentionInspector,
    CollectiveSimulator,
    LossSurface,
    MatrixInspector,
    MemoryPlanner,
    OperationInspector,
    OptimizerRace,
    PipelineSchedule,
    PositionExplorer,
    SamplingExplorer,
    TokenizerExplorer,
    TraceExplorer,
    TrainingStep,
    VocabularyExplorer,
)
from llmcore.widgets.arrays import as_array, reduce
from llmcore.widgets.vocabulary import coverage, rank_counts

NASTY = ["<img src=x onerror=alert(1)>", "</script>", "\"&'", "世界"]
TEXT = "the old fox and the young fox met at the old well"


def examples():
    x = np.arange(8.0).reshape(2, 4) - 3
    t = CharTokenizer.train([TEXT])
    return {
        "matrix": MatrixInspector(x, labels=[NASTY[:2], NASTY], caption=NASTY[0]),
        "attention": AttentionInspector(
            {NASTY[0]: (x.reshape(2, 2, 2), x.reshape(2, 2, 2))}, NASTY[:2], causal=True, caption=NASTY[0]
        ),
        "collective": CollectiveSimulator("tree reduce", 3, caption=NASTY[0]),
        "pipeline": PipelineSchedule("interleaved", 2, 4, 2, caption=NASTY[1]),
        "planner": MemoryPlanner(NASTY[0], Plan(), 1, 8, models={NASTY[0]: TOY, NASTY[1]: TOY}, caption=NASTY[1]),
        "operation": OperationInspector.matmul(x, x.T, rows=NASTY[:2], caption=NASTY[1]),
        "race": OptimizerRace(caption=NASTY[0]),
        "sampling": SamplingExplorer(x[0], NASTY, caption=NASTY[1]),
        "surface": LossSurface([(0, 1), (1, 2)], caption=NASTY[1]),
        "training": TrainingStep(toy_model().state_dict(), IDS, dict(zip(IDS, [*NASTY, "a", "b"])), caption=NASTY[0]),
        "trace": TraceExplorer({"a.b": x, f"a.{NASTY[1]}": x.T}, NASTY, caption=NASTY[0]),
        "position": PositionExplorer(caption=NASTY[2]),
        "tokenizer": TokenizerExplorer({NASTY[0]: t}, TEXT + NASTY[0], {NASTY[1]: NASTY[1]}, caption=NASTY[0]),
        "vocabulary": VocabularyExplorer({NASTY[1]: t}, TEXT, TEXT, caption=NASTY[0]),
    }


EXAMPLES = examples()
every = pytest.mark.parametrize("kind", WIDGETS)


def test_every_widget_has_an_example_and_its_own_kind():
    assert set(EXAMPLES) == set(WIDGETS)
    for kind, widget in EXAMPLES.items():
        assert type(widget).__name__ == WIDGETS[kind].__name__
        assert widget.kind == kind


@every
def test_text_is_data_never_markup(kind):
    """In the stored figure no label, caption or token becomes an element, and nothing ends the state before its end."""
    figure = EXAMPLES[kind].figure()
    assert figure.count("</script>") == figure.count("<script") == 1
    assert "<img" not in figure
    data = re.search(r'<script type="application/json">(.*)</script>', figure).group(1)
    assert "<" not in data
    assert json.loads(data)["state"] == json.loads(json.dumps(EXAMPLES[kind].state))


@every
def test_repr_is_the_same_in_every_run_and_the_figure_lies_beside_the_live_view(kind):
    widget, again = EXAMPLES[kind], examples()[kind]
    assert repr(widget) == repr(again)
    assert widget.figure() == again.figure()
    bundle = widget._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert data["text/html"] == widget.figure()
    assert data["text/plain"] == repr(widget)
    assert "application/vnd.jupyter.widget-view+json" in data


@every
def test_a_stored_notebook_has_a_table_to_read(kind):
    figure = EXAMPLES[kind].figure()
    assert "<table>" in figure
    assert '<th scope="col">' in figure


def test_the_table_and_the_state_hold_the_rounded_values():
    x = np.array([[1 / 3, -2 / 3], [1e-7, 12345.678]])
    widget = MatrixInspector(x, "x", labels=[["a", "b"], None])
    assert widget.state["array"]["data"] == [0.3333, -0.6667, 1e-7, 12350]
    assert "<td>0.3333</td><td>-0.6667</td>" in widget.figure()
    assert repr(widget) == "MatrixInspector(x, 2 x 2)"


def test_not_a_number_and_infinity_are_shipped_as_such():
    data = MatrixInspector([[np.nan, np.inf], [-np.inf, 1]]).state["array"]["data"]
    assert data == ["NaN", "Infinity", "-Infinity", 1]
    json.loads(json.dumps(data, allow_nan=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_torch_tensors_are_taken_as_they_are(dtype):
    x = torch.ones(2, 3).to(dtype)
    if x.is_floating_point():
        x.requires_grad_()
    assert MatrixInspector(x).state["array"]["data"] == [1] * 6


def test_numpy_integers_booleans_and_lists_are_taken():
    for x in (np.ones((2, 2), dtype=np.uint8), np.ones((2, 2), dtype=bool), [[1, 1], [1, 1]], np.ones((2, 2), dtype=np.float16)):
        assert MatrixInspector(x).state["array"]["data"] == [1] * 4


@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.zeros((0, 3)), None, "it is empty"),
        ([[1, 2], [3]], None, "rows of unequal length"),
        (np.array([{}, {}], dtype=object), None, "dtype object"),
        (np.array(["a"]), None, "a widget shows numbers"),
        (np.zeros((1, 1, 1, 1, 1)), None, "5 axes"),
        (np.float64(3), None, "0 axes"),
        (np.zeros((2, 3)), [["a"], None], "1 labels for axis 0 of length 2"),
        (np.zeros((2, 3)), [None], "2 axes and labels for 1"),
        (np.zeros(2, dtype=complex), None, "dtype complex"),
    ],
)
def test_bad_arrays_are_named(as_a_reader_calls_it, values, labels, message):
    with pytest.raises(ValueError, match=message):
        MatrixInspector(values, labels=labels)


def test_other_bad_input_is_named(as_a_reader_calls_it):
    with pytest.raises(ValueError, match="3 names"):
        MatrixInspector(np.zeros((2, 2)), axes=["a", "b", "c"])
    with pytest.raises(ValueError, match="scale='rainbow'"):
        MatrixInspector(np.zeros((2, 2)), scale="rainbow")
    with pytest.raises(ValueError, match="inner sizes"):
        OperationInspector.matmul(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="one number a column"):
        OperationInspector.matmul(np.zeros((2, 3)), np.zeros((3, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="must be equal"):
        OperationInspector.add(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="whole numbers from 0 to 2"):
        OperationInspector.one_hot([3], np.zeros((3, 2)))
    with pytest.raises(ValueError, match="multiple of the heads"):
        OperationInspector.split_heads(np.zeros((2, 3)), 2)
    with pytest.raises(ValueError, match="more than 2048"):
        OperationInspector.relu(np.zeros((100, 100)))
    with pytest.raises(ValueError, match="the operation gives"):
        OperationInspector.relu(np.zeros((2, 2)), result=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="needs \\(2,\\)"):
        OperationInspector.layer_norm(np.zeros((2, 2)), weight=np.ones(3))
    with pytest.raises(ValueError, match="queries and keys"):
        OperationInspector.scores(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="even widths"):
        PositionExplorer(d_model=3)
    with pytest.raises(ValueError, match="more than 4096"):
        PositionExplorer(d_model=128, positions=64)
    with pytest.raises(ValueError, match="at least one"):
        TokenizerExplorer({}, "x")
    with pytest.raises(ValueError, match="the page knows"):
        TokenizerExplorer({"t": BPETokenizer.train([TEXT], 260, pattern=r"\S+|\s+")}, "x")
    with pytest.raises(ValueError, match="no layers"):
        AttentionInspector({}, ["a"])
    with pytest.raises(ValueError, match="\\(heads, queries, d_head\\)"):
        AttentionInspector({"x": (np.zeros((2, 2)), np.zeros((2, 2)))}, ["a", "b"])
    with pytest.raises(ValueError, match="1 labels for axis 1"):
        AttentionInspector({"x": (np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))}, ["a"])
    with pytest.raises(ValueError, match="trace is empty"):
        TraceExplorer({})
    with pytest.raises(ValueError, match="path='x'"):
        TraceExplorer({"a": np.zeros(2)}, path="x")
    with pytest.raises(ValueError, match="finite numbers"):
        SamplingExplorer([1.0, np.inf], ["a", "b"])
    with pytest.raises(ValueError, match="1 tokens for 2 logits"):
        SamplingExplorer([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="surplus .*segments"):
        TrainingStep({**toy_model().state_dict(), "embedding.segments": np.zeros((2, 4))}, IDS, dict.fromkeys(IDS, "x"))
    with pytest.raises(ValueError, match="each from 0 to 200"):
        TrainingStep(toy_model().state_dict(), (101, 201), {101: "he", 201: "?"})
    with pytest.raises(ValueError, match="at least two finite pairs"):
        LossSurface([(1.0, 2.0)])
    with pytest.raises(ValueError, match="land='hill'"):
        OptimizerRace("hill")
    with pytest.raises(ValueError, match="collective='star'"):
        CollectiveSimulator("star")
    with pytest.raises(ValueError, match="ranks=9: choose 2 to 8"):
        CollectiveSimulator(ranks=9)
    with pytest.raises(ValueError, match=r"values of shape \(2, 3\)"):
        CollectiveSimulator(values=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="bandwidth=0"):
        CollectiveSimulator(bandwidth=0)
    with pytest.raises(ValueError, match="schedule='zigzag'"):
        PipelineSchedule("zigzag")
    with pytest.raises(ValueError, match="stages=9, microbatches=8"):
        PipelineSchedule(stages=9)
    with pytest.raises(ValueError, match="chunks=2 with schedule='1f1b'"):
        PipelineSchedule(chunks=2)
    with pytest.raises(ValueError, match="v=2 chunks, m=5 microbatches, p=4 stages"):
        PipelineSchedule("interleaved", 4, 5, 2)
    with pytest.raises(ValueError, match="backward=0"):
        PipelineSchedule(backward=0)
    with pytest.raises(ValueError, match="model='GPT-5'"):
        MemoryPlanner("GPT-5")
    with pytest.raises(ValueError, match="tensor=3 does not divide n_heads=32"):
        MemoryPlanner(plan=Plan(tensor=3))
    with pytest.raises(ValueError, match="efficiency=60"):
        MemoryPlanner(efficiency=60)
    with pytest.raises(ValueError, match="must both hold something"):
        VocabularyExplorer({"c": CharTokenizer.train([TEXT])}, "", "x")


def test_a_large_array_is_reduced_to_means_of_blocks_and_says_so():
    x = np.arange(300 * 200.0).reshape(300, 200)
    widget = MatrixInspector(x, "big")
    small, block = reduce(x)
    assert small.size <= 4096
    assert block == (4, 4)
    np.testing.assert_allclose(small[1, 2], x[4:8, 8:12].mean())
    assert "each cell is the mean of 4 x 4" in widget.state["note"]
    assert html.escape(widget.state["note"]) in widget.figure()
    assert len(widget.figure()) < 45_000
    ragged, block = reduce(np.ones((2, 101, 67)), most=500)
    assert ragged.shape == (2, *(-(-n // b) for n, b in zip((101, 67), block[1:])))
    np.testing.assert_allclose(ragged, 1)  # the last block is shorter and its mean is over what it has
    with pytest.raises(ValueError, match="leading places"):
        reduce(np.ones((100, 100, 2, 2)), most=500)


def test_results_that_widgets_compute_equal_torch():
    x, w, b = (torch.randn(s, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) for s in ((5, 4), (4,), (4,)))
    of = lambda widget: torch.tensor([float(v) for v in widget.state["result"]["data"]], dtype=torch.float64).view(
        widget.state["result"]["shape"]
    )
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    close(of(OperationInspector.softmax(x)), x.softmax(-1))
    close(of(OperationInspector.layer_norm(x, w, b)), torch.nn.functional.layer_norm(x, (4,), w, b))
    close(of(OperationInspector.rms_norm(x, w)), torch.nn.functional.rms_norm(x, (4,), w, 1e-5))
    close(of(OperationInspector.matmul(x, x.T)), x @ x.T)
    masked = torch.full((5, 5), -torch.inf).triu(1).double()
    close(of(OperationInspector.scores(x, x, causal=True)), x @ x.T / 2 + masked)
    heads = of(OperationInspector.split_heads(x, 2))
    close(heads, x.view(5, 2, 2).transpose(0, 1))
    close(of(OperationInspector.concat_heads(heads)), x)


def test_a_result_that_is_given_is_shown_as_given():
    shown = OperationInspector.relu([[1.0, -1.0]], result=[[1.0, 0.5]]).state["result"]["data"]
    assert shown == [1, 0.5]


def test_coverage_counts_held_out_tokens_among_the_most_frequent():
    words = WordTokenizer.train([TEXT])
    ranked = rank_counts(words, TEXT)
    assert words.token(ranked[0][0]) == " "
    held = words.encode("the fox the unicorn")
    shares = coverage(ranked, held)
    assert shares[-1] == pytest.approx(6 / 7)  # seven tokens, one of them unknown
    assert list(shares) == sorted(shares)


def test_schedules_are_shipped_as_they_are():
    """What the page plays is what schedules.py returns, for every collective and number of ranks."""
    shipped = CollectiveSimulator().state["schedules"]
    for name, make in COLLECTIVES.items():
        for p in range(2, 9):
            plain = [[[s.source, s.destination, s.chunk, s.add] for s in step] for step in make(p)]
            assert shipped[name][str(p)] == plain
    assert len(CollectiveSimulator().figure()) < 12_000


def test_a_plan_made_in_the_page_is_a_plan_in_python():
    plan = Plan(data=16, tensor=8, pipeline=8, microbatches=96, recompute="full")
    widget = MemoryPlanner("GPT-3 175B", plan, 1536, 2048)
    assert Plan(**widget.plan) == plan
    assert set(widget.state["models"]) == set(MODELS)
    assert len(widget.figure()) < 25_000


def test_a_trait_set_in_python_is_sent_to_the_page():
    """The live home: the comm carries what changes; the browser's side is tests/pages/test_live.py."""
    widget = MatrixInspector(np.eye(3))
    seen = []
    widget.observe(lambda change: seen.append(change["new"]), "selection")
    widget.selection = [1, 2]
    assert seen == [[1, 2]]
    assert widget.get_state(["selection"])["selection"] == [1, 2]
    explorer = TokenizerExplorer({"b": BPETokenizer.train([TEXT], 270, [END])}, TEXT + END)
    assert explorer.ids[-1] == 269


def test_as_array_copies_nothing_of_torch_into_the_widgets():
    """Arrays in, no torch import: the package of widgets can be read without it."""
    import llmcore.widgets.arrays as arrays

    assert "torch" not in vars(arrays)
    assert as_array(torch.eye(2), "x").dtype == np.float64


@pytest.fixture(scope="module")
def toy_trace():
    model = toy_model()
    with trace(model) as seen, torch.no_grad():
        model(torch.tensor([IDS]))
    return seen


def test_attention_from_a_trace_is_the_attention_of_the_model(toy_trace):
    widget = AttentionInspector.from_trace(toy_trace, TOKENS)
    assert widget.state["rule"] == {"causal": True, "before": 0, "start": 0, "stop": 6}
    assert [layer["q"]["shape"] for layer in widget.state["layers"]] == [[2, 6, 2]]
    with pytest.raises(ValueError, match="say how it was masked"):
        AttentionInspector.from_trace(toy_trace, TOKENS, causal=False)
    with pytest.raises(ValueError, match=r"no encoder\.blocks"):
        AttentionInspector.from_trace(toy_trace, TOKENS, stack="encoder")


def test_attention_across_reads_the_source():
    model = toy_model(family="encoder-decoder")
    with trace(model) as seen, torch.no_grad():
        model(torch.tensor([IDS[:3]]), source=torch.tensor([IDS]))
    across = AttentionInspector.from_trace(seen, TOKENS[:3], TOKENS, cross=True)
    assert across.state["rule"]["causal"] is False
    assert across.state["layers"][0]["k"]["shape"] == [2, 6, 2]


def test_a_trace_is_shipped_whole_and_small(toy_trace):
    widget = TraceExplorer(toy_trace, TOKENS)
    assert [e["path"] for e in widget.state["entries"]] == list(toy_trace)
    assert [e["shape"] for e in widget.state["entries"]] == [list(t.shape) for t in toy_trace.values()]
    weights = next(e["array"] for e in widget.state["entries"] if e["path"].endswith("attention.weights"))
    assert weights["labels"] == [None, list(TOKENS), list(TOKENS)]
    assert len(widget.figure()) < 40_000
