"""A page by the keyboard alone: every control is reached in order, shows that it is focused, and works."""

import pytest

PAGE = "1-2-embedding"
# the controls that the keyboard can reach, and how each looks without the focus
OFFERED = """() => {
  const look = (e) => {
    const s = getComputedStyle(e);
    return [s.outlineStyle, s.outlineWidth, s.boxShadow].join(" ");
  };
  const seen = (e) => e.getClientRects().length && e.checkVisibility({visibilityProperty: true});
  const controls = document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]");
  window.look = look;
  window.offered = [...controls].filter((e) => e.tabIndex >= 0 && !e.disabled && seen(e));
  window.before = new Map(offered.map((e) => [e, look(e)]));
  return offered.map((e) => e.outerHTML.slice(0, 120));
}"""
# where the keyboard is: its number, whether it looks different, whether it is in the window and nothing lies
# over its middle
WHERE = """() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const box = e.getClientRects()[0], s = getComputedStyle(e);
  const line = s.outlineStyle !== "none" && s.outlineWidth !== "0px";
  const marked = window.before.get(e) !== window.look(e) && (line || s.boxShadow !== "none");
  const inside = box.bottom > 0 && box.right > 0 && box.top < innerHeight && box.left < innerWidth;
  return [window.offered.indexOf(e), marked, inside, e.outerHTML.slice(0, 120)];
}"""


@pytest.fixture
def open_page(browser, html):
    contexts = []

    def open_(name=PAGE, **options):
        context = browser.new_context(
            **({"viewport": {"width": 1200, "height": 800}, "reduced_motion": "reduce"} | options)
        )
        contexts.append(context)
        page = context.new_page()
        page.goto((html / f"chapters/{name}.html").as_uri(), wait_until="load")
        page.wait_for_selector("figure.llmcore.ll-live")
        page.add_style_tag(
            content="*, *::before, *::after { transition: none !important; }"
        )  # a mark that fades in is seen at once
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tab_walks_through_the_whole_page(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    offered = page.evaluate(OFFERED)
    assert len(offered) > 90
    assert "Skip to main content" in offered[0]
    steps = []
    while len(steps) <= len(offered):
        page.keyboard.press("Tab")
        step = page.evaluate(WHERE)
        if step is None:
            break
        steps.append(step)
    assert [number for number, *_ in steps] == list(
        range(len(offered))
    )  # each once, in the page's order, and out at the end: no trap
    assert [text for _, marked, _, text in steps if not marked] == []
    assert [text for _, _, inside, text in steps if not inside] == []
    assert (
        page.locator("figure.llmcore input, figure.llmcore button, figure.llmcore td[tabindex='0']").count()
        > 5
    )
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(WHERE)[0] == len(offered) - 1  # and back in


def test_the_first_stop_skips_what_repeats(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_a_hidden_answer_opens_and_closes(open_page):
    page = open_page()
    answer = page.locator(".tag_hide-cell details").first
    code = answer.locator("pre").first
    assert not code.is_visible()
    answer.locator("summary").focus()
    page.keyboard.press("Enter")
    assert code.is_visible()
    answer.locator("summary").focus()
    page.keyboard.press("Space")
    assert not code.is_visible()


def test_the_themes_controls_work(open_page):
    """Search, light and dark, the menus of the toolbar, the sidebar."""
    page = open_page()
    page.keyboard.press("Control+k")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.press("Escape")
    assert not page.locator("#pst-search-dialog").is_visible()
    theme = page.locator("button.theme-switch-button:visible")
    before = page.evaluate("document.documentElement.dataset.mode")
    theme.first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.dataset.mode") != before
    menu = page.locator(".dropdown-launch-buttons button")
    menu.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert "colab" in page.evaluate("document.activeElement.href")
    page.keyboard.press("Escape")
    assert menu.get_attribute("aria-expanded") == "false"


def test_the_drawer_of_a_phone(open_page):
    """The list of chapters: opened, walked, closed; the keyboard is where it was."""
    page = open_page(viewport={"width": 360, "height": 740})
    toggle = page.locator("button.primary-toggle:visible").first
    toggle.focus()
    page.keyboard.press("Enter")
    drawer = page.locator("#pst-primary-sidebar-modal")
    assert drawer.is_visible()
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement.closest('#pst-primary-sidebar-modal') !== null"
        )  # what lies behind is not reached
    page.keyboard.press("Escape")
    assert not drawer.is_visible()
    assert page.evaluate("document.activeElement.classList.contains('primary-toggle')")
    toggle.focus()
    page.keyboard.press("Enter")
    page.locator("#pst-primary-sidebar-modal a", has_text="2.1 Epoch, batch, iteration").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/2-1-concepts.html")
