"""The widgets of the built book as a reader uses them: mouse, touch, keyboard; light, dark; any width."""

import gzip
import re
from pathlib import Path

import pytest

AXE = Path(__file__).resolve().parents[1] / "js/node_modules/axe-core/axe.min.js"
TOKENIZATION, EMBEDDING, VOCABULARY = "1-1-tokenization", "1-2-embedding", "0-vocabulary"
ATTENTION, PROCESS, OUTPUT = "2-2-1-2-1-self-attention", "2-2-training-process", "2-2-2-output-layer"
DESCENT, STEP = "2-3-1-gradient-descent", "2-3-3-one-training-step"
COLLECTIVES, DATA_PARALLEL, SHARDING = "2-4-1-collectives", "2-4-2-data-parallel", "2-4-3-sharding"
TENSOR, PIPELINE, TOGETHER = "2-4-4-tensor-parallel", "2-4-5-pipeline", "2-4-6-putting-it-together"


@pytest.fixture(scope="module")
def open_page(browser, html):
    """open_page(name, **context options): a chapter's page from its file, in a fresh browser context."""
    contexts = []

    def open_(name, **options):
        context = browser.new_context(**({"viewport": {"width": 1100, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.goto((html / f"chapters/{name}.html").as_uri(), wait_until="load")
        page.wait_for_selector("figure.llmcore.ll-live")
        return page

    yield open_
    for context in contexts:
        context.close()


def widget(page, kind, n=0):
    found = page.locator(f"figure.llmcore[data-widget={kind}]").nth(n)
    found.scroll_into_view_if_needed()
    return found


def names_with_widgets(html) -> list[str]:
    return sorted(
        p.stem
        for p in (html / "chapters").glob("*.html")
        if 'class="llmcore"' in p.read_text(encoding="utf-8")
    )


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
    if (
        said != "copied"
    ):  # the clipboard is closed to a page from a file: then the text stands there, selected
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
    assert (
        operation.locator("td.ll-mark")
        .nth(1)
        .evaluate("e => e.closest('tr').querySelector('th').textContent")
        == "105"
    )


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
        worst = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
        first = [(v["id"], v["nodes"][0]) for v in worst]
        serious = [(rule, node["html"][:160], node["failureSummary"][:300]) for rule, node in first]
        assert serious == [], f"{name}, {scheme}"
        page.close()


def sent(body: bytes) -> int:
    """The bytes that cross the network: text is compressed, a picture already is."""
    return min(len(body), len(gzip.compress(body, 6)))


def test_pages_are_small(html, server, browser, capsys):
    """Below 400 kB per page, as a server compresses it, without what draws its formulas.

    When the first widget answers is shown.
    """
    for name in names_with_widgets(html):
        sizes, context = [], browser.new_context()  # a new context has nothing in its cache
        page = context.new_page()
        page.on("response", lambda r, sizes=sizes: sizes.append((r.url, sent(r.body()) if r.ok else 0)))
        page.goto(f"{server}/chapters/{name}.html", wait_until="load")
        page.wait_for_selector("figure.ll-live")
        alive = page.evaluate("performance.getEntriesByName('llmcore-alive')[0].startTime")
        page.wait_for_load_state("networkidle")
        bytes_ = sum(n for url, n in sizes if "mathjax" not in url.lower())
        with capsys.disabled():
            print(f"\n  {name}: {bytes_ / 1e3:.0f} kB, widgets alive {alive:.0f} ms after the start")
        assert bytes_ < 400_000, (name, sorted(sizes, key=lambda s: -s[1])[:6])
        context.close()


def test_attention_shows_how_a_score_and_a_weight_were_computed(open_page):
    page = open_page(ATTENTION)
    inspector = widget(page, "attention")
    cells = inspector.locator("td[data-r]")
    inspector.locator("td[data-r='2'][data-c='1']").click()
    said = inspector.locator(".ll-readout").inner_text()
    assert said.count("✓ the value shown") == 2
    assert "exp(" in said
    assert inspector.locator(".ll-read").count() > 0
    before = cells.all_inner_texts()
    head = inspector.get_by_label("head", exact=True)
    head.focus()
    page.keyboard.press("ArrowRight")
    assert cells.all_inner_texts() != before
    inspector.get_by_label("show").select_option("scores")
    assert inspector.locator(".ll-readout").inner_text().count("✓ the value shown") == 2


def test_a_trace_opens_any_tensor(open_page):
    page = open_page(PROCESS)
    explorer = widget(page, "trace")
    leaf = explorer.locator(".ll-leaf", has_text="weights").first
    for summary in explorer.locator("summary").all():
        if summary.locator("xpath=..").get_attribute("open") is None:
            summary.click()
    leaf.click()
    assert (
        explorer.locator(".ll-opened .ll-title")
        .first.inner_text()
        .startswith("decoder.blocks.0.attention.weights")
    )
    assert leaf.get_attribute("aria-pressed") == "true"
    explorer.locator(".ll-opened td[data-r='1'][data-c='0']").click()
    assert "weights[0, 1, 0] = " in explorer.locator(".ll-opened .ll-readout").inner_text()


def test_sampling_rules_live(open_page):
    page = open_page(OUTPUT)
    explorer = widget(page, "sampling")
    rows = explorer.locator("tbody tr")
    now = lambda i: rows.nth(i).locator("td").nth(3).inner_text()
    first = float(now(0))
    assert abs(first - float(rows.nth(0).locator("td").nth(1).inner_text())) < 1e-3
    temperature = explorer.get_by_label("temperature")
    temperature.fill("0.5")
    assert float(now(0)) > first
    explorer.get_by_label("top-k").fill("1")
    assert now(0) == "1.0000"
    assert now(1) == "cut"
    assert "1 of " in explorer.locator(".ll-readout").inner_text()
    explorer.get_by_role("button", name="draw 1,000 times").click()
    assert rows.nth(0).locator("td").nth(4).inner_text() == "1.0000"


def test_a_training_step_is_walked_and_changed(open_page):
    page = open_page(STEP)
    step = widget(page, "training")
    loss = lambda: float(
        re.findall(r"\d+\.\d+(?:e-\d+)?", step.locator(".ll-readout").first.inner_text())[-1]
    )
    step.get_by_role("button", name="after backward").click()
    step.locator("summary", has_text="parameters").click()
    step.locator("button[data-name='W_q']").click()
    gradient = step.locator("table[aria-label^='gradient'] td[data-r='1'][data-c='2']")
    gradient.click()
    assert "✓ the value shown" in step.locator(".ll-readout").last.inner_text()
    step.get_by_role("button", name="update", exact=True).click()
    assert step.locator("table[aria-label^='after the update']").count() == 1
    step.get_by_role("button", name="one update").click()
    after_one = loss()
    assert after_one < 5.531
    step.get_by_role("button", name="100 updates").click()
    assert loss() < 0.1
    assert step.locator("svg.ll-chart").is_visible()
    step.get_by_role("button", name="reset").click()
    assert step.locator(".ll-readout").first.inner_text().startswith("loss 5.531")
    step.locator("summary", has_text="change the six tokens").click()
    step.get_by_label("token 5").select_option("101")
    assert "token 5 is now he: loss 5.531 →" in step.locator(".ll-readout").first.inner_text()
    step.get_by_role("button", name="reset").click()
    step.locator("button[data-name='W_q']").click()
    step.get_by_label("New value of the chosen weight").fill("3")
    step.get_by_role("button", name="set", exact=True).click()
    assert "W_q[0, 0] = 3: loss 5.531 →" in step.locator(".ll-readout").first.inner_text()
    moment = step.get_by_label("moment")
    moment.focus()
    page.keyboard.press("Home")
    assert "moment 1 of 63 — forward: E[ids] is made" in step.locator(".ll-step").inner_text()
    step.get_by_label("optimizer").select_option("adamw")
    step.get_by_role("button", name="100 updates").click()


def test_descent_diverges_above_the_largest_rate(open_page):
    page = open_page(DESCENT)
    surface = widget(page, "surface")
    surface.get_by_role("button", name="20 steps").click()
    said = surface.locator(".ll-readout").inner_text()
    assert said.startswith("step 20")
    value = lambda: float(re.search(r"loss (\S+),", surface.locator(".ll-readout").inner_text()).group(1))
    assert value() < 1
    surface.get_by_role("button", name="back to the start").click()
    surface.get_by_label("learning rate").fill("-0.5")  # 0.316, above 2 / 8.405
    surface.get_by_role("button", name="20 steps").click()
    assert value() > 1
    surface.locator("svg.ll-map").click(position={"x": 200, "y": 60})
    assert surface.locator(".ll-readout").inner_text().startswith("step 0")


def test_the_race_is_run_again_for_every_setting(open_page):
    page = open_page(DESCENT)
    race = widget(page, "race")
    said = lambda: race.locator(".ll-readout").inner_text()
    before = said()
    race.get_by_label("condition number k").fill("2")
    assert said() != before
    assert "SGD has left the map" in said()
    race.get_by_label("loss", exact=True).select_option("saddle")
    assert race.locator("svg.ll-map path.ll-contour").count() > 5


def test_the_toys_gradient_goes_round_the_ring(open_page):
    page = open_page(COLLECTIVES)
    ring = widget(page, "collective")
    ring.get_by_label("step", exact=True).focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    cell = lambda r, c: ring.locator(f"td[data-r='{r}'][data-c='{c}']")
    assert cell(3, 3).inner_text().startswith("0.367")  # the chapter's table: complete at rank 3 after step 3
    assert not cell(2, 3).inner_text().startswith("0.367")
    page.keyboard.press("End")
    assert [cell(r, 3).inner_text().split()[0] for r in range(4)] == ["0.3672"] * 4
    cell(2, 3).click()
    assert "0.03158 of rank 0 + 0.1249 of rank 1" in ring.locator(".ll-readout").first.inner_text()
    ring.get_by_label("collective").select_option("tree all-reduce")
    assert "✓ as counted" in ring.locator(".ll-formula").inner_text()


def test_a_larger_batch_hides_the_gradients(open_page):
    page = open_page(DATA_PARALLEL)
    planner = widget(page, "planner")
    spent = planner.locator("table[aria-label='Time of a step'] tr", has_text="data").locator("td").first
    batch = planner.get_by_label("sequences B")
    assert (batch.input_value(), spent.inner_text() != "0 s") == ("64", True)
    batch.fill("128")
    assert spent.inner_text() == "0 s"


def test_stages_of_zero_by_keyboard_and_touch(open_page):
    page = open_page(SHARDING, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    planner = widget(page, "planner")
    verdict = planner.locator(".ll-readout[role=status]").first
    assert verdict.inner_text().startswith("8 GPUs: 24.8 GB on the fullest, fits into 80 GB")
    stage = planner.get_by_label("ZeRO stage")
    stage.focus()
    page.keyboard.press("Home")
    assert stage.input_value() == "0"
    assert "134.7 GB on the fullest, too much for 80 GB" in verdict.inner_text()
    stage.select_option("2")
    planner.get_by_role("button", name="gradients").tap()
    assert "gradients: " in planner.locator(".ll-readout[role=status]").nth(1).inner_text()
    assert "36.3 GB" in verdict.inner_text()


def test_partial_sums_become_the_row_that_one_process_computes(open_page):
    page = open_page(TENSOR, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    ring = widget(page, "collective")
    ring.get_by_role("button", name="→").tap()
    assert ring.locator("td.ll-mark").count() == 4
    ring.get_by_label("step", exact=True).focus()
    page.keyboard.press("End")
    row = [float(ring.locator(f"td[data-r='2'][data-c='{c}']").inner_text().split()[0]) for c in range(4)]
    assert [round(x, 3) for x in row] == [
        -0.708,
        0.098,
        0.564,
        1.418,
    ]  # what the chapter prints for the whole product


def test_a_schedule_is_chosen_and_followed(open_page):
    page = open_page(PIPELINE)
    pipe = widget(page, "pipeline")
    result, said = pipe.locator(".ll-readout").nth(0), pipe.locator(".ll-readout").nth(1)
    assert "held at most: 4, 3, 2, 1" in result.inner_text()
    pipe.get_by_label("schedule").select_option("gpipe")
    assert "held at most: 8, 8, 8, 8" in result.inner_text()
    pipe.get_by_label("microbatches m").focus()
    page.keyboard.press("End")
    assert "3 / 35 = 8.57 % ✓ as counted" in result.inner_text()  # the chapter's m = 32
    pipe.locator("[data-work=F0][data-stage='2']").click()
    assert "stage 2 does F0" in said.inner_text()


def test_a_published_plan_is_changed(open_page):
    page = open_page(TOGETHER)
    planner = widget(page, "planner")
    verdict = planner.locator(".ll-readout[role=status]").first
    assert verdict.inner_text().startswith("1,024 GPUs: 50.2 GB on the fullest, fits into 80 GB; 28.4 s")
    recompute = planner.get_by_label("recompute")
    recompute.focus()
    recompute.select_option("none")
    assert (
        "71.7 GB on the fullest, fits into 80 GB" in verdict.inner_text()
    )  # fused attention keeps no squares
    planner.get_by_label("attention").select_option("explicit")
    assert "too much for 80 GB" in verdict.inner_text()
    planner.get_by_label("ZeRO stage").select_option("1")
    planner.get_by_label("data", exact=True).select_option("32")
    planner.get_by_label("pipeline").select_option("4")
    planner.get_by_label("microbatches").fill("48")
    assert (
        "1,024 GPUs: 71 GB on the fullest, fits" in verdict.inner_text()
    )  # a shorter pipeline instead of recomputation
