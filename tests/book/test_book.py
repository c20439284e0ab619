"""The book builds without a warning, links to what exists, and needs no other host."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "tests" / "book" / "build.py"
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}


class Page(HTMLParser):
    """What a page loads, where it links, and which ids it has."""

    def __init__(self, text: str):
        super().__init__()
        self.loads, self.links, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values.get("id"), values.get("name")}
        if tag == "link" and values.get("rel") in ("canonical", "search", "next", "prev", "index", "author"):
            return
        if values.get(LOADS.get(tag, "")):
            self.loads.append(values[LOADS[tag]])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])


@pytest.fixture(scope="session")
def html(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("book") / "_build"
    result = subprocess.run([sys.executable, BUILD, folder], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder / "html"


@pytest.fixture(scope="session")
def pages(html) -> dict[Path, Page]:
    return {p: Page(p.read_text(encoding="utf-8")) for p in html.rglob("*.html") if "_static" not in p.parts}


def test_no_page_loads_from_another_host(pages):
    for path, page in pages.items():
        assert [u for u in page.loads if urlsplit(u).scheme or u.startswith("//")] == [], path.name


def test_links_inside_the_book_lead_somewhere(html, pages):
    for path, page in pages.items():
        for link in [u for u in page.links + page.loads if not urlsplit(u).scheme and not u.startswith("//")]:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name} links to {link}"


def test_a_warning_fails_the_build(tmp_path):
    """The status is kept: a copy of the book with a broken reference does not build."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters/index.md").write_text("# A\n\n[nowhere](#nothing-here)\n", encoding="utf-8")
    shutil.copytree(ROOT / "_ext", tmp_path / "_ext")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: chapters/index\n", encoding="utf-8")
    (tmp_path / "tests/book").mkdir(parents=True)
    script = tmp_path / "tests/book/build.py"
    script.write_text(BUILD.read_text(encoding="utf-8"), encoding="utf-8")
    result = subprocess.run([sys.executable, script, tmp_path / "_build"], capture_output=True, text=True)
    assert result.returncode != 0
    assert "WARNING" in re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr)


@pytest.fixture(scope="session")
def browser():
    """Any Chromium that is on the machine, or Playwright's own."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium on this machine: install Debian's chromium or run `playwright install chromium`")
        yield playwright.chromium.launch(executable_path=path, args=quiet)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def server(html):
    handler = functools.partial(Quiet, directory=html)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


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
