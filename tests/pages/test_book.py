"""The book builds without a warning, links to what exists, and needs no other host."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from book.address import ADDRESS, SITE

ROOT = Path(__file__).resolve().parents[2]


def test_no_page_loads_from_another_host(pages):
    for path, page in pages.items():
        assert [u for u in page.loads if urlsplit(u).scheme or u.startswith("//")] == [], path.name


def test_links_inside_the_book_lead_somewhere(html, pages):
    for path, page in pages.items():
        for link in [u for u in page.links + page.loads if not urlsplit(u).scheme and not u.startswith("//")]:
            parts = urlsplit(link)
            if (
                path.name == "404.html"
            ):  # it is sent for an address of any depth: its links begin at the site's own folder
                assert parts.path.startswith(urlsplit(SITE).path) or not parts.path
                parts = parts._replace(path=parts.path.removeprefix(urlsplit(SITE).path))
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name} links to {link}"


def test_a_warning_fails_the_build(tmp_path):
    """The status is kept: a copy of the book with a broken reference does not build."""
    shutil.copytree(ROOT / "chapters/images", tmp_path / "chapters/images")
    said = "A page whose one link leads nowhere: the book must not be built from it, "
    said += "and the build must say that it was not."
    text = f"---\nmyst:\n  html_meta:\n    description: '{said}'\n---\n\n# A\n\n[nowhere](#nothing-here)\n"
    (tmp_path / "chapters/index.md").write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "book", tmp_path / "book")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: chapters/index\n", encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "book", "build", tmp_path / "_build"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode != 0
    said = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr)
    assert re.findall(r"WARNING: (.*)", said) == [
        "'myst' cross-reference target not found: 'nothing-here' [myst.xref_missing]"
    ]


# code and what it prints, hidden or not, where one must scroll sideways to read it; a printed table may
CUT_OFF = """() => {
  document.querySelectorAll("article details").forEach((all) => (all.open = true));
  const boxes = document.querySelectorAll("article :is(.highlight, .cell_output .output) pre");
  const table = (pre) => pre.closest(".cell_output") && pre.textContent.match(/\\S {2,}\\S.*$/gm)?.length > 1;
  const cut = (pre) => pre.scrollWidth > pre.clientWidth + 1 && !table(pre);
  return [...boxes].filter(cut).map((pre) => pre.textContent.slice(0, 80));
}"""


@pytest.mark.parametrize("home", ["file", "http"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_in_a_browser(browser, html, pages, server, home, scheme):
    """No request to another host, no error on the console, formulas are set, nothing overflows a phone."""
    base = html.as_uri() if home == "file" else server
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    for path in sorted((html / "chapters").glob("*.html")):
        errors, outside = [], []
        page = context.new_page()
        page.on("console", lambda m, errors=errors: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e, errors=errors: errors.append(str(e)))
        page.on(
            "response",
            lambda r, errors=errors: errors.append(f"{r.status} {r.url}") if r.status >= 400 else None,
        )
        page.on(
            "request",
            lambda r, out=outside: (
                out.append(r.url) if not r.url.startswith((base, "data:", "blob:")) else None
            ),
        )
        page.goto(f"{base}/chapters/{path.name}", wait_until="load")
        if page.locator(".math").count():
            page.wait_for_selector("mjx-container", state="attached", timeout=20_000)
        assert outside == [], path.name
        assert errors == [], f"{path.name}: {errors}"
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{path.name} is {width} px wide on a phone"
        assert page.evaluate(CUT_OFF) == [], path.name
        page.set_viewport_size({"width": 1280, "height": 740})
        assert page.evaluate(CUT_OFF) == [], path.name
        texts = [
            e.get_text()
            for e in BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").select(
                "article .highlight pre"
            )
        ]
        assert (
            page.locator("article .highlight pre").evaluate_all("all => all.map((e) => e.textContent)")
            == texts
        )
        page.close()
    context.close()


def test_a_long_line_goes_on_behind_its_own_indentation(browser, html):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{html.as_uri()}/chapters/2-3-1-gradient-descent.html")
    # white space has boxes too, so the leftmost box of a row is where the row begins
    lines = page.evaluate("""() => {
      const measure = (line) => {
        const range = document.createRange(), rows = new Map();
        range.selectNodeContents(line);
        for (const box of range.getClientRects()) {
          const row = Math.round(box.top / 4);
          rows.set(row, Math.min(rows.get(row) ?? Infinity, box.left));
        }
        const left = line.getBoundingClientRect().left;
        const deeper = parseFloat(getComputedStyle(line).paddingLeft);
        const begins = [...rows.values()].map((x) => x - left);
        return { indent: line.textContent.search(/\\S/), rows: begins, deeper };
      };
      return [...document.querySelectorAll("article .highlight pre .long")].map(measure);
    }""")
    broken = [line for line in lines if len(line["rows"]) > 1]
    assert len(broken) > 20
    assert {line["indent"] for line in broken} >= {0, 4}
    for line in broken:
        assert line["rows"][0] == pytest.approx(0, abs=1)
        assert all(x == pytest.approx(line["deeper"], abs=1) for x in line["rows"][1:])
    page.close()


def test_the_copy_button_gives_the_code_as_it_is_stored(browser, server):
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{server}/chapters/2-3-1-gradient-descent.html")
    cells = nbformat.read(ROOT / "chapters/2-3-1-gradient-descent.ipynb", 4).cells
    code = next(
        c.source
        for c in cells
        if c.cell_type == "code" and len(c.source) > 600 and not c.metadata.get("tags")
    )
    texts = page.locator("div.cell_input pre").evaluate_all("all => all.map((e) => e.textContent.trim())")
    box = page.locator("div.cell_input .highlight").nth(texts.index(code))
    assert box.locator(".long").count() > 3
    box.hover()
    box.locator(".copybtn").click()
    assert page.evaluate("navigator.clipboard.readText()").strip() == code
    context.close()


def test_the_button_to_colab_leads_to_the_pages_own_notebook(html, pages):
    """The address is that of [project.urls], the branch and the file those of the repository."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    repository, notebooks = (
        ADDRESS.removeprefix("https://github.com/"),
        sorted((ROOT / "chapters").glob("*.ipynb")),
    )
    assert len(repository.split("/")) == 2
    assert notebooks
    for notebook in notebooks:
        path = notebook.relative_to(ROOT).as_posix()
        buttons = {
            u for u in pages[html / path.replace(".ipynb", ".html")].links if "colab" in urlsplit(u).netloc
        }
        assert buttons == {
            f"https://colab.research.google.com/github/{repository}/blob/{config['repository']['branch']}/{path}"
        }
