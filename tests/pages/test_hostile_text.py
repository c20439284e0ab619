"""Hostile text and odd values in every argument of every widget, in a browser: all is drawn, none is run."""

import re

import pytest
from widget_cases import careless, makers, texts

from llmcore.tokenizer import BPETokenizer
from llmcore.widgets import bundle
from llmcore.widgets.descent import LossSurface, OptimizerRace
from llmcore.widgets.matrix import MatrixInspector
from llmcore.widgets.pipeline import PipelineSchedule
from llmcore.widgets.position import PositionExplorer
from llmcore.widgets.tokenizers import TokenizerExplorer

# each below the 80 characters at which a label is cut
HOSTILE = [
    "\"'><img src=x onerror=ran('image')><script>ran('script')</script>",
    "</script></figure></table><svg onload=ran('svg')>javascript:ran('address')",
    "<!--&lt;b&gt;<b onfocus=ran('b') autofocus tabindex=1>${ran('template')}</style>",
]
# uses every control as a reader would, as far as a script can: buttons, lists, sliders, folds, table cells
USE = """
for (const figure of document.querySelectorAll("figure.llmcore")) {
  for (const fold of figure.querySelectorAll("details")) fold.open = true;
  for (const list of figure.querySelectorAll("select")) {
    list.selectedIndex = list.options.length - 1;
    list.dispatchEvent(new Event("change", { bubbles: true }));
  }
  for (const table of figure.querySelectorAll("table[role=grid]")) {
    const cells = table.querySelectorAll("td[data-r]");
    for (const cell of [cells[0], cells[cells.length - 1]]) { cell.focus(); cell.click(); }
  }
  for (const range of figure.querySelectorAll("input[type=range]")) {
    range.value = range.max;
    range.dispatchEvent(new Event("input", { bubbles: true }));
  }
  for (const button of figure.querySelectorAll("button")) {
    if (!/play|100|1,000/.test(button.textContent)) button.click();
  }
}
"""
# whether each figure has the text where a reader or a screen reader finds it: text, title, label, text box
HOLDS = """hostile => [...document.querySelectorAll("figure.llmcore")].map(figure =>
  figure.textContent.replace(/[␣]/g, " ").includes(hostile) || [...figure.querySelectorAll("*")].some(e =>
    (e.value ?? "").includes?.(hostile) || [...e.attributes].some(a => a.value.includes(hostile))))
"""
# arguments that no figure shows whole: of a trace only q and k, no unread option, a text only in tokens
NOT_SHOWN = re.compile(r"from_trace, traced|OperationInspector, options|VocabularyExplorer, (text|held_out)")
FOREIGN = 'img, iframe, b, style, script:not([type="application/json"])'
STRANGERS = f"document.querySelectorAll(`figure.llmcore :is({FOREIGN})`).length"


@pytest.fixture(scope="module")
def show(browser, tmp_path_factory):
    """show(figures, with_script): a page of figures in a browser; scripts, errors and requests are noted."""
    folder, context = (
        tmp_path_factory.mktemp("hostile"),
        browser.new_context(viewport={"width": 1100, "height": 900}),
    )

    def show_(figures, with_script=True):
        script = f"<script>{bundle.for_pages()}</script>" if with_script else ""
        head = f'<meta charset="utf-8"><style>{bundle.style()}</style>'
        head += "<script>window.done = []; ran = x => done.push(x);</script>"
        path = folder / "page.html"
        path.write_text(
            f"<!doctype html><html><head>{head}</head><body>{''.join(figures)}{script}</body></html>",
            encoding="utf-8",
        )
        page = context.new_page()
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on(
            "console", lambda message: page.wrong.append(message.text) if message.type == "error" else None
        )
        page.on(
            "request",
            lambda request: page.wrong.append(request.url) if request.url != path.as_uri() else None,
        )
        page.on("dialog", lambda dialog: (page.wrong.append(dialog.message), dialog.dismiss()))
        page.goto(path.as_uri())
        return page

    yield show_
    context.close()


def made(cases, make):
    """The widgets of the cases that are not refused."""
    for what, arguments in cases:
        try:
            yield f"{make.__qualname__}, {what}", make(**arguments)
        except ValueError:
            continue


def pages(found):
    """(name, figure) pairs, so few at a time that a page lays itself out quickly."""
    return [found[i : i + 20] for i in range(0, len(found), 20)]


def form(figure):
    """A figure without its labels and letters: figures of one form are drawn by the same code."""
    kind, _, data = figure.partition("</figcaption>")
    data = re.sub(r'"labels":.*?,"axes"', "", data[data.index("application/json") :])
    return kind.partition("<figcaption>")[0], re.sub(r'"(?!NaN|-?Infinity)(?!\w+":)[^"]*"', "", data)


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_shown_and_never_run(show, hostile, as_a_reader_calls_it):
    found = [(what, w.figure()) for make in makers() for what, w in made(texts(make, hostile), make)]
    assert len(found) > 120
    unseen = {what for what, _ in found if not NOT_SHOWN.search(what)}
    for part in pages(found):
        for with_script in (False, True):
            page = show([figure for _, figure in part], with_script)
            assert page.locator("figure.llmcore[data-widget]").count() == len(part)
            for use in ("0", USE) if with_script else ("0",):
                page.evaluate(use)
                assert page.evaluate(STRANGERS) == 0
                held = page.evaluate(HOLDS, hostile)
                unseen -= {what for (what, _), there in zip(part, held, strict=True) if there}
            assert page.locator("figure.ll-live[data-widget]").count() == len(part) * with_script
            page.wait_for_timeout(100)  # an image that fails to load runs its listener later
            assert page.evaluate("done") == []
            assert page.wrong == []
            page.close()
    assert unseen == set()


@pytest.mark.slow
def test_what_is_not_refused_is_drawn(show, as_a_reader_calls_it):
    """A figure with any odd value that an argument accepts draws itself and answers, without an error."""
    figures = {}
    for make in makers():
        for what, widget in made(careless(make), make):
            figures.setdefault(form(widget.figure()), (what, widget.figure()))
    assert len(figures) > 200
    for part in pages(list(figures.values())):
        page = show([figure for _, figure in part])
        broken = page.locator("figure[data-widget]").evaluate_all(
            "all => all.flatMap((f, i) => f.matches('.ll-live') ? [] : [i])"
        )
        assert [part[i][0] for i in broken] == []
        page.evaluate(USE)
        assert page.wrong == []
        page.close()


GOOD = MatrixInspector([[1.0, 2.0], [3.0, 4.0]], "good").figure()
PIPE = PipelineSchedule().figure()
BROKEN = {
    "no JSON": PIPE.replace('"forward":1.0', '"forward":NaN'),
    "cut off": PIPE.replace('"traits"', ""),
    "another state": PIPE.replace('"state"', '"estate"'),
    "no such widget": PIPE.replace('data-widget="pipeline"', 'data-widget="constructor"'),
    "empty": PIPE[: PIPE.index('"application/json">') + 19] + "</script></figure>",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_figure_says_so_and_stops_no_other(show, what):
    assert BROKEN[what] != PIPE
    page = show([BROKEN[what], GOOD, BROKEN[what], GOOD])
    figures = page.locator("figure.llmcore[data-widget]")
    assert page.locator("figure.ll-live").count() == 2
    for n in (0, 2):
        said = figures.nth(n).locator("p.ll-note")
        assert said.count() == 1
        assert said.inner_text().startswith("This figure cannot be drawn: ")
        assert figures.nth(n).locator(".ll-still table").is_visible()  # its table is still there
        assert (
            figures.nth(n).locator("figcaption, .ll-still, script, p").count()
            == figures.nth(n).locator("> *").count()
        )
    for n in (1, 3):
        figures.nth(n).locator("td[data-r='1'][data-c='0']").click()
        assert "good[1, 0] = 3" in figures.nth(n).locator(".ll-readout").inner_text()
    page.close()


def test_a_long_text_is_cut_at_a_bound_and_says_so(show):
    """A text set from Python is cut like a typed one, and no more tokens are drawn than a page can bear."""

    explorer = TokenizerExplorer({"pairs": BPETokenizer.train(["the old fox"], 260)}, "水" * 4000)
    page = show([explorer.figure(), explorer.figure().replace("水" * 4000 + '"', "水" * 8000 + '"')])
    for n in range(2):
        figure = page.locator("figure.llmcore[data-widget]").nth(n)
        assert len(figure.locator("textarea").first.input_value()) == 4000
        assert "only the first 4000 characters" in figure.locator("p.ll-note").inner_text()
        assert figure.locator(".ll-counts").inner_text().startswith("12000 tokens, 4000 characters")
        assert figure.locator(".ll-chip").count() == 2000
        assert "and 10000 more tokens" in figure.locator(".ll-chips").inner_text()
    assert page.wrong == []
    with pytest.raises(ValueError, match="more than 4000"):
        TokenizerExplorer({"pairs": BPETokenizer.train(["the old fox"], 260)}, "水" * 8000)
    page.close()


def test_a_slider_says_the_value_that_is_used(show):
    """Between two steps of a slider, or beyond its ends, a start is neither moved nor said otherwise."""
    rates = {"sgd": 1e-5, "momentum": 0.0333, "adam": 50.0}
    page = show([
        OptimizerRace(condition=30, lr=rates).figure(),
        LossSurface([(0, 1), (1, 2)], start=(0.123, 9.0), lr=7.0).figure(),
        PositionExplorer(4, 2, view="rotary").figure(), PipelineSchedule(forward=1.0, backward=8.0).figure(),
    ])  # fmt: skip
    said = lambda label: (
        page.locator(".ll-control", has_text=label)
        .locator("visible=true")
        .locator("output")
        .first.inner_text()
    )
    assert [said(f"lr {name}") for name in ("SGD", "momentum", "Adam")] == ["1e-5", "0.0333", "50"]
    assert said("condition number k") == "30"
    assert said("learning rate") == "7"
    assert said("backward / forward") == "8"
    sliders = page.locator(
        "figure[data-widget=surface] .ll-control", has=page.locator("label", has_text=re.compile("^[wb]$"))
    )
    assert sliders.locator("output").all_inner_texts() == ["0.123", "9"]
    assert said("position of q") == "1"  # positions are 0 and 1
    assert (
        "q at 1, k at 1, offset 0"
        in page.locator("figure[data-widget=position] .ll-readout:visible").inner_text()
    )
    assert page.wrong == []
    page.close()
