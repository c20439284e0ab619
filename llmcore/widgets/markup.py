"""The one place that makes markup. Text is always text: a token "<img onerror=...>" is escaped everywhere.

`element` returns Markup, a str that is not escaped a second time. Every other string, even the sum of two
Markups, counts as text: a mistake shows tags to the reader and runs nothing. A test holds that no other
module of this package writes a tag; js/dom.js does the same in the page.
"""

import html
from typing import Any

TABLES = ("caption", "div", "figcaption", "figure", "p", "style", "table", "tbody", "td", "th", "thead", "tr")
DRAWINGS = ("circle", "line", "polygon", "rect", "svg", "text", "title")
TAGS = frozenset((*TABLES, *DRAWINGS))
PLACES = ("cx", "cy", "height", "points", "r", "rx", "viewBox", "width", "x", "x1", "x2", "y", "y1", "y2")
FILLS = ("fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width")
FONTS = ("font-family", "font-size", "font-weight", "text-anchor")
# none that a browser would run; a fill or stroke could load, so Picture passes only colours of its own
ATTRIBUTES = frozenset(("class", "data-widget", "role", "scope", *PLACES, *FILLS, *FONTS))

# HTML cannot hold control characters: ␀ (U+2400) is shown for NUL, and so on
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}


class Markup(str):
    """HTML made by element(), join() or data(); nothing else may create it."""

    __slots__ = ()


def element(tag: str, attributes: dict[str, str], *children: Any) -> Markup:
    """One element. A child that is Markup is kept as it is; any other becomes escaped text.

    >>> element("p", {"class": "a"}, "1 < 2", element("td", {}, "<b>"))
    '<p class="a">1 &lt; 2<td>&lt;b&gt;</td></p>'
    """
    assert tag in TAGS, tag
    assert set(attributes) <= ATTRIBUTES, attributes
    given = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{given}>{join(*children)}</{tag}>")


def join(*children: Any) -> Markup:
    """Several children, one after the other."""
    as_text = lambda child: html.escape(str(child)).translate(CONTROLS)
    return Markup("".join(c if isinstance(c, Markup) else as_text(c) for c in children))


def data(json: str) -> Markup:
    """A state as a script element of JSON; "<" is escaped, so that "</script>" in a text cannot end it."""
    return Markup('<script type="application/json">' + json.replace("<", "\\u003c") + "</script>")
