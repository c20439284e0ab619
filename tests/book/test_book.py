"""The book builds without a warning, links to what exists, and needs no other host."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from address import ADDRESS, SITE

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "tests" / "book" / "build.py"


def test_no_page_loads_from_another_host(pages):
    for path, page in pages.items():
        assert [u for u in page.loads if urlsplit(u).scheme or u.startswith("//")] == [], path.name


def test_links_inside_the_book_lead_somewhere(html, pages):
    for path, page in pages.items():
        for link in [u for u in page.links + page.loads if not urlsplit(u).scheme and not u.startswith("//")]:
            parts = urlsplit(link)
            if path.name == "404.html":  # it is sent for an address of any depth: its links begin at the site's own folder
                assert parts.path.startswith(urlsplit(SITE).path) or not parts.path
                parts = parts._replace(path=parts.path.removeprefix(urlsplit(SITE).path))
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name} links to {link}"


def test_a_warning_fails_the_build(tmp_path):
    """The status is kept: a copy of the book with a broken reference does not build."""
    shutil.copytree(ROOT / "chapters/images", tmp_path / "chapters/images")
    said = "A page whose one link leads nowhere: the book must not be built from it, and the build must say that it was not."
    text = f"---\nmyst:\n  html_meta:\n    description: '{said}'\n---\n\n# A\n\n[nowhere](#nothing-here)\n"
    (tmp_path / "chapters/index.md").write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "_ext", tmp_path / "_ext")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: chapters/index\n", encoding="utf-8")
    (tmp_path / "tests/book").mkdir(parents=True)
    script = tmp_path / "tests/book/build.py"
    script.write_text(BUILD.read_text(encoding="utf-8"), encoding="utf-8")
    result = subprocess.run([sys.executable, script, tmp_path / "_build"], capture_output=True, text=True)
    assert result.returncode != 0
    said = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr)
    assert re.findall(r"WARNING: (.*)", said) == ["'myst' cross-reference target not found: 'nothing-here' [myst.xref_missing]"]


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
        page.on("response", lambda r, errors=errors: errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("request", lambda r, out=outside: out.append(r.url) if not r.url.startswith((base, "data:", "blob:")) else None)
        page.goto(f"{base}/chapters/{path.name}", wait_until="load")
        if page.locator(".math").count():
            page.wait_for_selector("mjx-container", state="attached", timeout=20_000)
        assert outside == [], path.name
        assert errors == [], f"{path.name}: {errors}"
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, f"{path.name} is {width} px wide on a phone"
        page.close()
    context.close()


def test_the_button_to_colab_leads_to_the_pages_own_notebook(html, pages):
    """The address is that of [project.urls], the branch and the file those of the repository."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    repository, notebooks = ADDRESS.removeprefix("https://github.com/"), sorted((ROOT / "chapters").glob("*.ipynb"))
    assert len(repository.split("/")) == 2
    assert notebooks
    for notebook in notebooks:
        path = notebook.relative_to(ROOT).as_posix()
        buttons = {u for u in pages[html / path.replace(".ipynb", ".html")].links if "colab" in urlsplit(u).netloc}
        assert buttons == {f"https://colab.research.google.com/github/{repository}/blob/{config['repository']['branch']}/{path}"}
