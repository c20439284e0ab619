"""The widgets of the built book, used as a reader would: by mouse, touch and keyboard, in light and dark, at any width."""

import re
from pathlib import Path

import pytest

AXE = Path(__file__).resolve().parents[1] / "js/node_modules/axe-core/axe.min.js"
TOKENIZATION, EMBEDDING, VOCABULARY = "1-1-tokenization", "1-2-embedding", "0-vocabulary"


@pytest.fixture(scope="module")
def open_page(browser, html):
    """open_page(name, **context options): the page of a chapter, read from its file, as a fresh reader has it."""
    contexts = []

    def open_(name, **options):
        context = browser.new_context(**({"viewport": {"width": 1100, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.goto((html / f"chapters/{name}.html").as_uri(), wait_until="load")
        page.wait_for_selector("figure.llmcore.ll-live", timeout=5000)
        return page

    yield open_
    for context in contexts:
        context.close()


def widget(page, kind, n=0):
    found = page.locator(f"figure.llmcore[data-widget={kind}]").nth(n)
    found.scroll_into_view_if_needed()
    return found


def names_with_widgets(html) -> list[str]:
    return sorted(p.stem for p in (html / "chapters").glob("*.html") if 'class="llmcore"' in p.read_text(encoding="utf-8"))


def test_a_matrix_by_mouse_and_keyboard(open_page):
    page = open_page(EMBEDDING)
    matrix = widget(page, "matrix")
    cells = matrix.locator("td[data-r]")
    said = matrix.locator(".ll-readout")
    cells.nth(0).hover()
    assert "E[0, 0]" in said.inner_text()
    assert "E[0, 0]" in page.locator(".ll-tooltip:visible").inner_text()
    cells.nth(0).click()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert "E[1, 1]" in said.inner_text()
    assert "row 101" in said.inner_text()
    page.keyboard.press("Control+End")
    assert page.evaluate("document.activeElement.dataset.r + ',' + document.activeElement.dataset.c") == "5,3"
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowUp")  # at the edge it stays
    assert "E[0, 0]" in said.inner_text()
    before = cells.nth(0).evaluate("e => getComputedStyle(e).backgroundColor")
    matrix.get_by_label("colours").select_option("sequential")
    assert cells.nth(0).evaluate("e => e.classList.contains('ll-seq')")
    assert before != ""


def test_copy_as_text(open_page):
    page = open_page(EMBEDDING)
    matrix = widget(page, "matrix")
    matrix.get_by_role("button", name="copy as text").click()
    page.wait_for_function("document.querySelector('.ll-said').textContent !== ''")
    said = matrix.locator(".ll-said").inner_text()
    if said != "copied":  # the clipboard is closed to a page from a file: then the text stands there, selected
        assert len(matrix.locator("textarea").input_value().splitlines()) == 6


def test_the_arithmetic_shown_gives_the_value_shown(open_page, html):
    """In every operation of every page: choose cells, and read the tick that the page computes."""
    seen = 0
    for name in names_with_widgets(html):
        page = open_page(name)
        for n in range(page.locator("figure.llmcore[data-widget=operation]").count()):
            operation = widget(page, "operation", n)
            result = operation.locator(".ll-panel").last.locator("td[data-r]")
            for i in {0, result.count() // 2, result.count() - 1}:
                result.nth(i).scroll_into_view_if_needed()
                result.nth(i).click()
                formula = operation.locator(".ll-formula").inner_text()
                assert "✓ the value shown" in formula, f"{name}, operation {n}: {formula}"
                seen += 1
                if result.nth(i).inner_text():
                    assert result.nth(i).inner_text() in formula
        page.close()
    assert seen >= 6


def test_an_operation_marks_the_cells_that_it_used(open_page):
    page = open_page(EMBEDDING)
    operation = widget(page, "operation")
    result = operation.locator(".ll-panel").last
    result.locator("td[data-r='3'][data-c='1']").click()
    marked = operation.locator("td.ll-mark")
    assert marked.count() == 2  # the 1 of the one-hot row, and one number of E
    assert marked.nth(1).evaluate("e => e.closest('tr').querySelector('th').textContent") == "104"
    page.keyboard.press("ArrowDown")
    assert operation.locator("td.ll-mark").nth(1).evaluate("e => e.closest('tr').querySelector('th').textContent") == "105"


def test_a_text_is_cut_while_it_is_typed(open_page):
    page = open_page(TOKENIZATION)
    explorer = widget(page, "tokenizer")
    notes = explorer.locator(".ll-tokenizer").last
    assert notes.locator(".ll-chip small").all_inner_texts() == ["101", "102", "100", "104", "105", "200"]
    explorer.get_by_label("Type any text").fill("世界<img src=x onerror=alert(1)></script>")
    assert page.locator("figure img").count() == 0
    first = explorer.locator(".ll-tokenizer").first
    assert "".join(first.locator(".ll-token").all_inner_texts()).endswith("onerror=alert(1)></script>")
    assert "⟨e4⟩" in first.locator(".ll-chips").inner_text()
    assert "unknown" in notes.locator(".ll-counts").inner_text()
    slider = first.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    assert "no merge yet" in first.locator(".ll-step").inner_text()
    characters, tokens = 40, first.locator(".ll-chip").count()
    assert tokens > characters
    page.keyboard.press("ArrowRight")
    assert first.locator(".ll-step").inner_text().startswith("merge 1 joined")
    explorer.get_by_label("try").select_option(label="emoji")
    assert "🌍" in explorer.get_by_label("Type any text").input_value()


def test_special_tokens_are_read_only_where_allowed(open_page):
    explorer = widget(open_page(TOKENIZATION), "tokenizer")
    explorer.get_by_label("Type any text").fill("he<eos>")
    notes = explorer.locator(".ll-tokenizer").last
    assert notes.locator(".ll-chip").count() == 2
    explorer.get_by_label("read special tokens").uncheck()
    assert notes.locator(".ll-chip").count() > 2


def test_a_vocabulary_is_searched_and_its_charts_are_read(open_page):
    page = open_page(VOCABULARY)
    explorer = widget(page, "vocabulary")
    rows = explorer.locator("table tbody tr")
    before = rows.count()
    explorer.get_by_label("search").fill("zzzz")
    assert "no token holds this" in explorer.inner_text()
    explorer.get_by_label("vocabulary").select_option(index=1)
    explorer.get_by_label("search").fill("fox")
    assert 0 < rows.count() <= before
    assert all("fox" in t.lower() for t in rows.locator("th").all_inner_texts())
    reading = explorer.locator(".ll-plot").first
    reading.locator("input[type=range]").focus()
    text = reading.locator(".ll-readout").inner_text()
    page.keyboard.press("End")
    assert reading.locator(".ll-readout").inner_text() != text
    box = reading.locator("svg.ll-chart").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 80)
    assert "rank" in reading.locator(".ll-readout").inner_text()


def test_moving_both_rotary_positions_keeps_the_score(open_page):
    page = open_page(EMBEDDING)
    explorer = widget(page, "position")
    score = lambda: re.search(r"score (\S+)\.", explorer.locator(".ll-readout:visible").inner_text()).group(1)
    before = score()
    explorer.get_by_label("move both").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert score() == before
    explorer.get_by_label("position of k").focus()
    page.keyboard.press("ArrowRight")
    assert score() != before
    explorer.get_by_label("kind of position").select_option("sinusoidal")
    explorer.locator("td[data-r='3'][data-c='2']").click()
    assert "P[3, 2] = sin(3 × " in explorer.locator(".ll-readout:visible").inner_text()


def test_touch(open_page):
    page = open_page(EMBEDDING, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    operation = widget(page, "operation", 1)
    cell = operation.locator(".ll-panel").last.locator("td[data-r='2'][data-c='1']")
    cell.scroll_into_view_if_needed()
    cell.tap()
    assert operation.locator(".ll-formula").inner_text().startswith("x[2, 1]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(open_page, html, scheme):
    """The rules of axe-core on every widget of every page."""
    for name in names_with_widgets(html):
        page = open_page(name, color_scheme=scheme)
        page.add_script_tag(path=AXE)
        found = page.evaluate("axe.run('figure.llmcore', {resultTypes: ['violations']})")
        serious = [(v["id"], v["nodes"][0]["html"][:160], v["nodes"][0]["failureSummary"][:300]) for v in found["violations"]
                   if v["impact"] in ("serious", "critical")]  # fmt: skip
        assert serious == [], f"{name}, {scheme}"
        page.close()


def test_widgets_are_usable_at_once_and_pages_are_small(html, server, browser, capsys):
    """The first widget answers within a second of the start of loading (the best of three loads, because the machine may be busy);
    a page without its formulas' fonts stays below 1 MB."""
    for name in names_with_widgets(html):
        alive, context = [], browser.new_context()
        for _ in range(3):
            page = context.new_page()
            sizes = []
            page.on("response", lambda r, sizes=sizes: sizes.append((r.url, len(r.body()) if r.ok else 0)))
            page.goto(f"{server}/chapters/{name}.html", wait_until="load")
            page.wait_for_selector("figure.ll-live")
            alive.append(page.evaluate("performance.getEntriesByName('llmcore-alive')[0].startTime"))
            page.close()
        bytes_ = sum(n for url, n in sizes if not re.search(r"mathjax|\.woff", url, re.IGNORECASE))
        with capsys.disabled():
            print(f"\n  {name}: {bytes_ / 1e3:.0f} kB, widgets alive {min(alive):.0f} ms after the start")
        assert min(alive) < 1000, name
        assert bytes_ < 1_000_000, (name, sorted(sizes, key=lambda s: -s[1])[:6])
        context.close()
