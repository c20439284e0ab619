"""Widgets: what they ship, what they refuse, and that text stays text in every home."""

import ast
import html
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import llmcore.widgets
from llmcore.config import TOY
from llmcore.corpus import END
from llmcore.distributed.schedules import COLLECTIVES
from llmcore.planning.models import MODELS
from llmcore.planning.plan import Plan
from llmcore.tokenizer import BPETokenizer, CharTokenizer, WordTokenizer
from llmcore.toy import IDS, TOKENS, toy_model
from llmcore.trace import trace
from llmcore.widgets.arrays import as_array, reduce
from llmcore.widgets.attention import AttentionInspector, attend
from llmcore.widgets.collective import CollectiveSimulator
from llmcore.widgets.descent import LossSurface, OptimizerRace
from llmcore.widgets.gallery import WIDGETS
from llmcore.widgets.markup import element
from llmcore.widgets.matrix import MatrixInspector
from llmcore.widgets.operation import OperationInspector
from llmcore.widgets.pipeline import PipelineSchedule
from llmcore.widgets.planner import MemoryPlanner
from llmcore.widgets.position import PositionExplorer
from llmcore.widgets.sampling import SamplingExplorer
from llmcore.widgets.tokenizers import TokenizerExplorer
from llmcore.widgets.trace import TraceExplorer
from llmcore.widgets.training import TrainingStep
from llmcore.widgets.vocabulary import VocabularyExplorer, coverage, rank_counts

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
        "planner": MemoryPlanner(
            NASTY[0], Plan(), 1, 8, models={NASTY[0]: TOY, NASTY[1]: TOY}, caption=NASTY[1]
        ),
        "operation": OperationInspector.matmul(x, x.T, rows=NASTY[:2], caption=NASTY[1]),
        "race": OptimizerRace(caption=NASTY[0]),
        "sampling": SamplingExplorer(x[0], NASTY, caption=NASTY[1]),
        "surface": LossSurface([(0, 1), (1, 2)], caption=NASTY[1]),
        "training": TrainingStep(
            toy_model().state_dict(), IDS, dict(zip(IDS, [*NASTY, "a", "b"])), caption=NASTY[0]
        ),
        "trace": TraceExplorer({"a.b": x, f"a.{NASTY[1]}": x.T}, NASTY, caption=NASTY[0]),
        "position": PositionExplorer(caption=NASTY[2]),
        "tokenizer": TokenizerExplorer(
            {NASTY[0]: t}, TEXT + NASTY[0], {NASTY[1]: NASTY[1]}, caption=NASTY[0]
        ),
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
    """In a stored figure no label, caption or token becomes an element or ends the state early."""
    figure = EXAMPLES[kind].figure()
    assert figure.count("</script>") == figure.count("<script") == 1
    assert "<img" not in figure
    data = re.search(r'<script type="application/json">(.*)</script>', figure).group(1)
    assert "<" not in data
    assert json.loads(data)["state"] == json.loads(json.dumps(EXAMPLES[kind].state))


FOLDER = Path(llmcore.widgets.__file__).parent
TAG = re.compile(r"</?[A-Za-z!][^<]*")
# every way of a browser to make markup, or to run text, of a string
MAKES_MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|setHTML|\.srcdoc|"
    r"createElement|\beval\b|\bFunction\(|setTimeout\(\s*[\"'`]|javascript:|setAttribute\(\s*[\"'`](on|href|src|style)"
)


def test_python_makes_markup_in_one_place():
    """No other module has a tag in a string other than a docstring, escapes text, or creates a Markup."""
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        documented = [n for n in nodes if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        docstrings = {id(n.body[0].value) for n in documented if isinstance(n.body[0], ast.Expr)}
        strings = [n.value for n in nodes if isinstance(n, ast.Constant) and id(n) not in docstrings]
        tags = [s for s in strings if isinstance(s, str) and TAG.search(s)]
        called = [n.func for n in nodes if isinstance(n, ast.Call)]
        made = [f for f in called if getattr(f, "id", getattr(f, "attr", "")) == "Markup"]
        imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        assert bool(tags or made or "html" in imported) == (path.name == "markup.py"), (path.name, tags)


def test_javascript_makes_elements_in_one_place():
    """Text becomes a text node: only dom.js makes elements, and no string is read as markup or code."""
    files = list(FOLDER.glob("js/*.js"))
    assert len(files) > 30
    found = {
        (path.name, m.group())
        for path in files
        for m in MAKES_MARKUP.finditer(path.read_text(encoding="utf-8"))
    }
    assert found == {("dom.js", "createElement")}


def test_only_markup_that_element_made_is_left_as_it_is():
    made = element("p", {"class": '"><img src=x>'}, "<b>", element("td", {}, "a"), "\0")
    assert made == '<p class="&quot;&gt;&lt;img src=x&gt;">&lt;b&gt;<td>a</td>␀</p>'
    assert element("p", {}, made + "") == element(
        "p", {}, str(made)
    )  # a sum is text again, and shows its tags
    assert "&lt;td" in element("p", {}, made + "")
    for tag, attributes in (("script", {}), ("p", {"onclick": "f()"}), ("p", {"href": "javascript:f()"})):
        with pytest.raises(AssertionError):
            element(tag, attributes)


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


FLOAT8 = [getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, *FLOAT8])
def test_every_float_of_torch_keeps_its_value(dtype):
    """The numbers are those that torch has, of float64 too, which float32 could not hold."""
    x = (
        torch.tensor([[1.5, -0.25], [torch.finfo(dtype).max, 3.0]], dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
    )
    assert as_array(x, "x").tolist() == x.detach().double().tolist()
    assert as_array(x.T, "x").tolist() == x.detach().double().T.tolist()
    assert as_array((x.detach().double() * 1j).imag, "x").tolist() == x.detach().double().tolist()


@pytest.mark.parametrize("most", [255, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**200])
def test_integers_are_shown_as_they_are(most):
    dtype = np.uint64 if most < 2**64 else object
    for values in ([[most, 0], [1, most]], np.array([[most, 0], [1, most]], dtype=dtype)):
        widget = MatrixInspector(values)
        assert widget.state["array"]["data"] == [most, 0, 1, most]
        assert widget.state["array"]["scale"] == "sequential"
        assert f"<td>{most}</td>" in widget.figure()
    assert as_array([[-most, most]], "x").tolist() == [[-most, most]]


@pytest.mark.parametrize("most", [3, 2**53 + 1, 2**62, 2**63 - 1, 2**64 - 1])
def test_means_of_integers_are_exact(most):
    """Means of 2 x 2 blocks equal those in exact fractions; a sum in int64 would overflow from 2^61 on."""
    draw = np.random.default_rng(0)
    x = np.array(
        [[int(draw.integers(0, 2**30)) * most // 2**30 for _ in range(6)] for _ in range(5)], dtype=object
    )
    x[0, :2] = [most, most - 1]
    small, block = reduce(as_array(x, "x"), most=8)
    for r in range(small.shape[0]):
        for c in range(small.shape[1]):
            part = [
                int(v) for v in x[r * block[0] : (r + 1) * block[0], c * block[1] : (c + 1) * block[1]].flat
            ]
            assert small[r, c] == pytest.approx(float(Fraction(sum(part), len(part))), rel=4e-16)
    cancelling = np.tile(np.array([[2**62, -(2**62) + 2]]), (64, 64))  # each block's mean is 1
    assert set(MatrixInspector(cancelling).state["array"]["data"]) == {1}


def test_means_of_the_largest_floats_are_finite():
    small, _ = reduce(np.full((100, 100), 1.6e308))
    np.testing.assert_allclose(small, 1.6e308, rtol=1e-12)
    assert MatrixInspector([np.finfo(float).max]).state["array"]["data"] == [np.finfo(float).max]


def test_every_layout_of_memory_gives_the_same_numbers():
    x = np.arange(24.0).reshape(4, 6)
    plain = MatrixInspector(x).state
    for same in (
        np.asfortranarray(x),
        x.astype(">f8"),
        x[:, ::-1][:, ::-1],
        x.astype(">i4"),
        x.astype(np.longdouble),
    ):
        assert MatrixInspector(same).state == plain
    assert MatrixInspector(np.ma.masked_less(x, -1)).state == plain  # nothing is masked


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(2).to_sparse(), "sparse"),
        (lambda: torch.eye(2, device="meta"), "meta device"),
        (lambda: torch.eye(2, dtype=torch.complex64), "complex"),
        (lambda: torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8), "quantized"),
        (lambda: np.ma.masked_less(np.eye(2), 1), "masked at 2 places"),
        (lambda: np.zeros(2, "M8[s]"), "dtype datetime64"),
        (lambda: np.zeros(2, "i4,f4"), "dtype \\[\\("),
        (lambda: [[None]], "dtype object"),
        (lambda: [[True, 2**70]], "dtype object"),
        (lambda: [10**400], "beyond float64"),
        (lambda: np.broadcast_to(1.0, (10**6, 10**6)), "more than 67108864"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=f"^x .*{message}"):
        MatrixInspector(make(), "x")


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(float).max, reason="long double is float64 here")
@pytest.mark.parametrize("number", ["1e4000", "1e-4000"])
def test_long_doubles_beyond_float64_are_refused(number):
    with pytest.raises(ValueError, match="beyond float64"):
        MatrixInspector(np.array([np.longdouble(number)]))
    assert MatrixInspector(np.array([np.inf, 0], np.longdouble)).state["array"]["data"] == ["Infinity", 0]


def integer_operations(a, b):
    """Each operation that takes integers, with its result in Python's own."""
    make, rows, columns = OperationInspector, range(len(a)), range(len(b[0]))
    array = lambda x: np.array(x, dtype=object)
    product = [[sum(a[r][k] * b[k][c] for k in range(len(b))) for c in columns] for r in rows]
    T = [[a[r][c] for r in rows] for c in range(len(a[0]))]
    flat = lambda rows_: [x for row in rows_ for x in row]
    return [
        (lambda: make.matmul(array(a), array(b)), flat(product)),
        (
            lambda: make.matmul(array(a), array(b), array(b[0])),
            [x + b[0][i % len(b[0])] for i, x in enumerate(flat(product))],
        ),
        (lambda: make.add(array(a), array(a)), [2 * x for x in flat(a)]),
        (lambda: make.one_hot([1, 0], array(a)), flat([a[1], a[0]])),
        (lambda: make.relu(array(a)), [max(x, 0) for x in flat(a)]),
        (lambda: make.transpose(array(a)), flat(T)),
        (lambda: make.split_heads(array(a), 1), flat(a)),
        (lambda: make.concat_heads(array([a])), flat(a)),
    ]


@pytest.mark.parametrize("size", [1, 2**32, 2**62, 2**63, 2**64 - 1, 2**300])
def test_operations_on_integers_are_exact(size):
    """Integers are exact: in int64 [[2^32]] @ [[2^32]] would overflow to 0."""
    a, b = [[size, 3], [size // 2, 0]], [[size, 1], [2, size]]
    for make, result in integer_operations(a, b):
        assert make().state["result"]["data"] == result


def test_an_operation_that_float64_would_lose_is_refused():
    """The page computes in float64: a result that it would lose or could not hold is refused."""
    big = 2**60
    with pytest.raises(ValueError, match="float64 loses it"):
        OperationInspector.matmul([[big, big]], [[big + 1], [-big]])
    with pytest.raises(ValueError, match="float64 loses it"):
        OperationInspector.add([[2**62 + 1]], [[-(2**62)]])
    for make in (OperationInspector.softmax, OperationInspector.layer_norm, OperationInspector.rms_norm):
        with pytest.raises(ValueError, match="integers beyond 2\\^53"):
            make([[big + 1, big]])
    with pytest.raises(ValueError, match="squares are beyond float64"):
        OperationInspector.layer_norm([[1e200, -1e200]])
    with pytest.raises(ValueError, match="beyond float64"):
        OperationInspector.matmul([[1e200]], [[1e200]])
    assert OperationInspector.add([[2**62 + 1]], [[2**62]]).state["result"]["data"] == [2**63 + 1]


def test_rows_with_nan_are_nan_as_in_torch():
    x = torch.tensor([[1.0, torch.nan], [torch.inf, 1.0], [-torch.inf, 2.0]], dtype=torch.float64)
    shown = [float(v) for v in OperationInspector.softmax(x).state["result"]["data"]]
    np.testing.assert_allclose(shown, x.softmax(-1).flatten(), rtol=1e-6)
    q = np.array([[[np.nan, 1.0], [1.0, 0.0]]])
    first = np.array(attend(q[0], np.eye(2), False, (0, 2)))
    assert np.isnan(first[0]).all()
    np.testing.assert_allclose(first[1], torch.tensor([1 / 2**0.5, 0.0]).double().softmax(0))


def test_numpy_integers_booleans_and_lists_are_taken():
    for x in (
        np.ones((2, 2), dtype=np.uint8),
        np.ones((2, 2), dtype=bool),
        [[1, 1], [1, 1]],
        np.ones((2, 2), dtype=np.float16),
    ):
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
        (np.zeros((2, 3)), [["a"], None], "axis 0=.* has 1 items: give 2"),
        (np.zeros((2, 3)), [None], "2 axes and labels for 1"),
        (np.zeros(2, dtype=complex), None, "dtype complex"),
    ],
)
def test_bad_arrays_are_named(as_a_reader_calls_it, values, labels, message):
    with pytest.raises(ValueError, match=message):
        MatrixInspector(values, labels=labels)


BAD_INPUT = [
    ("3 names", lambda: MatrixInspector(np.zeros((2, 2)), axes=["a", "b", "c"])),
    ("scale='rainbow'", lambda: MatrixInspector(np.zeros((2, 2)), scale="rainbow")),
    ("inner sizes", lambda: OperationInspector.matmul(np.zeros((2, 3)), np.zeros((2, 3)))),
    (
        "one number for each column",
        lambda: OperationInspector.matmul(np.zeros((2, 3)), np.zeros((3, 2)), np.zeros(3)),
    ),
    ("must be equal", lambda: OperationInspector.add(np.zeros((2, 3)), np.zeros((3, 2)))),
    ("whole numbers from 0 to 2", lambda: OperationInspector.one_hot([3], np.zeros((3, 2)))),
    ("multiple of the heads", lambda: OperationInspector.split_heads(np.zeros((2, 3)), 2)),
    ("more than 2048", lambda: OperationInspector.relu(np.zeros((100, 100)))),
    ("the operation gives", lambda: OperationInspector.relu(np.zeros((2, 2)), result=np.zeros((3, 3)))),
    ("needs \\(2,\\)", lambda: OperationInspector.layer_norm(np.zeros((2, 2)), weight=np.ones(3))),
    ("queries and keys", lambda: OperationInspector.scores(np.zeros((2, 2)), np.zeros((2, 3)))),
    ("even widths", lambda: PositionExplorer(d_model=3)),
    ("more than 4096", lambda: PositionExplorer(d_model=128, positions=64)),
    ("no tokenizers", lambda: TokenizerExplorer({}, "x")),
    (
        "the page knows",
        lambda: TokenizerExplorer({"t": BPETokenizer.train([TEXT], 260, pattern=r"\S+|\s+")}, "x"),
    ),
    ("no layers", lambda: AttentionInspector({}, ["a"])),
    (
        "\\(heads, queries, d_head\\)",
        lambda: AttentionInspector({"x": (np.zeros((2, 2)), np.zeros((2, 2)))}, ["a", "b"]),
    ),
    (
        "tokens=.* has 1 items: give 2",
        lambda: AttentionInspector({"x": (np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))}, ["a"]),
    ),
    ("trace is empty", lambda: TraceExplorer({})),
    ("path='x'", lambda: TraceExplorer({"a": np.zeros(2)}, path="x")),
    ("finite numbers of at most", lambda: SamplingExplorer([1.0, np.inf], ["a", "b"])),
    (r"tokens=\['a'\] has 1 items: give 2", lambda: SamplingExplorer([1.0, 2.0], ["a"])),
    (
        "surplus .*segments",
        lambda: TrainingStep(
            {**toy_model().state_dict(), "embedding.segments": np.zeros((2, 4))}, IDS, dict.fromkeys(IDS, "x")
        ),
    ),
    (
        "an id of vocabulary=201: choose 0 to 200",
        lambda: TrainingStep(toy_model().state_dict(), (101, 201), {101: "he", 201: "?"}),
    ),
    ("at least two finite pairs", lambda: LossSurface([(1.0, 2.0)])),
    ("land='hill'", lambda: OptimizerRace("hill")),
    ("collective='star'", lambda: CollectiveSimulator("star")),
    ("ranks=9: choose 2 to 8", lambda: CollectiveSimulator(ranks=9)),
    (r"values of shape \(2, 3\)", lambda: CollectiveSimulator(values=np.zeros((2, 3)))),
    ("bandwidth=0", lambda: CollectiveSimulator(bandwidth=0)),
    ("schedule='zigzag'", lambda: PipelineSchedule("zigzag")),
    ("stages=9: choose 1 to 8", lambda: PipelineSchedule(stages=9)),
    ("chunks=2 with schedule='1f1b'", lambda: PipelineSchedule(chunks=2)),
    ("v=2 chunks, m=5 microbatches, p=4 stages", lambda: PipelineSchedule("interleaved", 4, 5, 2)),
    ("backward=0", lambda: PipelineSchedule(backward=0)),
    ("model='GPT-5'", lambda: MemoryPlanner("GPT-5")),
    ("tensor=3 does not divide n_heads=32", lambda: MemoryPlanner(plan=Plan(tensor=3))),
    ("efficiency=60", lambda: MemoryPlanner(efficiency=60)),
    ("must both hold something", lambda: VocabularyExplorer({"c": CharTokenizer.train([TEXT])}, "", "x")),
]


@pytest.mark.parametrize(("message", "make"), BAD_INPUT, ids=[message for message, _ in BAD_INPUT])
def test_other_bad_input_is_named(as_a_reader_calls_it, message, make):
    with pytest.raises(ValueError, match=message):
        make()


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
    x, w, b = (
        torch.randn(s, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for s in ((5, 4), (4,), (4,))
    )
    of = lambda widget: torch.tensor(
        [float(v) for v in widget.state["result"]["data"]], dtype=torch.float64
    ).view(widget.state["result"]["shape"])
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
    """The page plays what schedules.py returns, for every collective and number of ranks."""
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
