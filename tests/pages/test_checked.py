"""The page of what was checked: a row per chapter of each report, and a plain sentence without a report."""

import json
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Text(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.words: list[str] = []
        self.feed(html)

    def handle_data(self, data):
        self.words += data.split()


def test_the_page_says_what_was_checked_and_what_was_not(html):
    from book.report import KEPT, REPORTS

    page = (html / "chapters/appendix-checked.html").read_text(encoding="utf-8")
    text = " ".join(Text(page).words)
    chapters = [p.stem for p in (ROOT / "chapters").glob("*.ipynb")]
    kept = [name for name in REPORTS if (KEPT / f"{name}.json").exists()]
    for name, title in REPORTS.items():
        none = f"nothing is claimed for {title}."
        assert (none in text) == (name not in kept)
    for chapter in chapters:
        assert page.count(f'href="{chapter}.html"><span class="doc std std-doc">{chapter}<') == len(kept)
    for name in kept:
        for row in json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8")):
            assert row["when"] in text
