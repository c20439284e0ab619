"""The widgets of many ranks on a page of their own: mouse, touch, keyboard; light, dark; any width."""

from pathlib import Path

import pytest

from llmcore.planning.plan import Plan
from llmcore.widgets import bundle
from llmcore.widgets.collective import CollectiveSimulator
from llmcore.widgets.pipeline import PipelineSchedule
from llmcore.widgets.planner import MemoryPlanner

AXE = Path(__file__).resolve().parents[1] / "js/node_modules/axe-core/axe.min.js"
GPT3 = Plan(data=16, tensor=8, pipeline=8, microbatches=96, recompute="full")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    widgets = [
        CollectiveSimulator(caption="A ring of four"),
        PipelineSchedule(caption="Four stages"),
        MemoryPlanner("GPT-3 175B", GPT3, 1536, 2048, "a100", caption="GPT-3"),
    ]
    text = "".join(w.figure() for w in widgets)
    path = tmp_path_factory.mktemp("demo") / "page.html"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Ranks</title>'
    head += f"<style>{bundle.style()}</style>"
    path.write_text(
        f'<!doctype html><html lang="en"><head>{head}</head><body><main><h1>Ranks</h1>{text}</main>'
        f"<script>{bundle.for_pages()}</script></body></html>",
        encoding="utf-8",
    )
    return path.as_uri()


@pytest.fixture
def open_demo(browser, address):
    """open_demo(**context options): the page; what it throws or logs as an error fails the test."""
    contexts, wrong = [], []

    def open_(**options):
        context = browser.new_context(**({"viewport": {"width": 1100, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on(
            "request",
            lambda request: wrong.append(request.url) if not request.url.startswith("file:") else None,
        )
        page.goto(address)
        page.wait_for_selector("figure.llmcore.ll-live")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong


def widget(page, kind):
    return page.locator(f"figure[data-widget={kind}]")


def test_a_collective_by_keyboard_and_mouse(open_demo):
    page = open_demo()
    ring = widget(page, "collective")
    cells = ring.locator("td[data-r]")
    ring.get_by_label("step", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert "0 → 1 chunk 3 (added)" in ring.locator(".ll-step").inner_text()
    assert ring.locator("td.ll-mark").count() == 4
    page.keyboard.press("End")
    assert set(cells.locator("small span:last-child").all_inner_texts()) == {"all"}
    assert [t.split("\n")[0] for t in cells.all_inner_texts()][:4] == ["60", "64", "68", "72"]
    cells.nth(5).click()
    assert (
        "rank 1, chunk 1: 64 = 1 of rank 0 + 11 of rank 1 + 21 of rank 2 + 31 of rank 3"
        in ring.locator(".ll-readout").first.inner_text()
    )
    page.keyboard.press("ArrowDown")
    assert "rank 2, chunk 1" in ring.locator(".ll-readout").first.inner_text()
    assert "1.5 MB ✓ as counted" in ring.locator(".ll-formula").inner_text()
    for kind in ring.get_by_label("collective").locator("option").all_inner_texts():
        ring.get_by_label("collective").select_option(kind)
        for ranks in ("Home", "ArrowRight", "End"):
            ring.get_by_label("ranks", exact=True).focus()
            page.keyboard.press(ranks)
            ring.get_by_label("step", exact=True).focus()
            page.keyboard.press("End")
            assert "✓ as counted" in ring.locator(".ll-formula").inner_text(), (kind, ranks)


def test_a_collective_plays_and_stops_at_its_end(open_demo):
    page = open_demo()
    page.clock.install()
    ring = widget(page, "collective")
    ring.get_by_role("button", name="play").click()
    page.clock.run_for(2300)
    assert "step 2 of 6" in ring.locator(".ll-step").inner_text()
    page.clock.run_for(10_000)
    assert "step 6 of 6" in ring.locator(".ll-step").inner_text()
    assert ring.get_by_role("button", name="play").is_visible()


def test_a_pipeline_by_keyboard_and_mouse(open_demo):
    page = open_demo()
    pipe = widget(page, "pipeline")
    result, said = pipe.locator(".ll-readout").nth(0), pipe.locator(".ll-readout").nth(1)
    assert "3 / 11 = 27.3 % ✓ as counted" in result.inner_text()
    assert "held at most: 4, 3, 2, 1" in result.inner_text()
    pipe.locator("[data-work=B0][data-stage='3']").click()
    assert said.inner_text().startswith("time 4:")
    assert "stage 3 does B0" in said.inner_text()
    assert (
        pipe.locator(".ll-work:not(.ll-faded)").count() == 8
    )  # microbatch 0, forward and backward on four stages
    pipe.get_by_label("time", exact=True).focus()
    page.keyboard.press("End")
    assert said.inner_text().count("is done, holds 0") == 4
    pipe.get_by_label("schedule").select_option("gpipe")
    assert "held at most: 8, 8, 8, 8" in result.inner_text()
    assert "27.3 %" in result.inner_text()
    pipe.get_by_label("schedule").select_option("interleaved")
    assert "3 / 19 = 15.8 % ✓ as counted" in result.inner_text()
    pipe.get_by_label("stages p").focus()
    page.keyboard.press("ArrowRight")
    assert "groups of 5: 8 became 10" in pipe.locator(".ll-note").first.inner_text()
    assert "✓ as counted" in result.inner_text()


def test_a_plan_is_changed_refused_and_explained(open_demo):
    page = open_demo()
    plan = widget(page, "planner")
    verdict, refused = plan.locator(".ll-readout[role=status]").first, plan.locator(".ll-refused")
    assert verdict.inner_text().startswith("1,024 GPUs: 50.2 GB on the fullest, fits into 80 GB")
    for part in ("parameters", "gradients", "optimizer", "activations", "logits", "working"):
        plan.get_by_role("button", name=part).focus()
        page.keyboard.press("Enter")
        assert f"{part}: " in plan.locator(".ll-readout[role=status]").nth(1).inner_text()
    plan.get_by_label("recompute").select_option("selective")
    assert "choose 'none', 'full' or attention='explicit'" in refused.inner_text()
    plan.get_by_label("attention").select_option("explicit")
    assert not refused.is_visible()
    plan.get_by_label("recompute").select_option("none")
    assert "too much for 80 GB" in verdict.inner_text()
    plan.get_by_label("ZeRO stage").select_option("3")
    assert "choose zero 1 or 2, or pipeline=1" in refused.inner_text()
    plan.get_by_label("model").select_option("Llama 3.1 8B")
    assert plan.get_by_label("model").evaluate("e => e === document.activeElement")
    plan.get_by_label("pipeline").select_option("1")
    assert verdict.is_visible()
    assert not refused.is_visible()
    plan.get_by_label("microbatches").fill("")
    assert "microbatches=0: must be at least 1" in refused.inner_text()


def test_touch(open_demo):
    page = open_demo(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    pipe, ring = widget(page, "pipeline"), widget(page, "collective")
    ring.get_by_role("button", name="→").tap()
    ring.locator("td[data-r='1'][data-c='3']").tap()
    assert (
        "rank 1, chunk 3: 16 = 3 of rank 0 + 13 of rank 1" in ring.locator(".ll-readout").first.inner_text()
    )
    pipe.locator("[data-work=F1][data-stage='1']").tap()
    assert "stage 1 does F1" in pipe.locator(".ll-readout").nth(1).inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
def test_axe_finds_no_serious_violation_and_nothing_overflows(open_demo, theme, width):
    page = open_demo(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    page.evaluate(f"document.body.style.background = '{'#ffffff' if theme == 'light' else '#14181e'}'")
    widget(page, "collective").get_by_role("button", name="→").click()
    widget(page, "pipeline").get_by_label("schedule").select_option("interleaved")
    page.add_script_tag(path=AXE)
    found = page.evaluate("axe.run('figure.llmcore', {resultTypes: ['violations']})")
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, [
        (v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in serious
    ]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
