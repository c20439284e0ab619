"""The book, built once for all tests of its pages, a browser, and a server."""

import functools
import http.server
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tools.browser import ARGUMENTS, find

ROOT = Path(__file__).resolve().parents[2]
LOADS = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}


class Page(HTMLParser):
    """The addresses that a page loads, its links and its ids."""

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
    result = subprocess.run(
        [sys.executable, "-m", "book", "build", folder], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return folder / "html"


@pytest.fixture(scope="session")
def pages(html) -> dict[Path, Page]:
    return {p: Page(p.read_text(encoding="utf-8")) for p in html.rglob("*.html") if "_static" not in p.parts}


@pytest.fixture(scope="session")
def browser():
    """A Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    path = find()
    if path is None:
        pytest.skip("no Chromium on this machine, and `python -m tools.browser` could not install one")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=ARGUMENTS)


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
