"""The one place that makes markup. Text is always text: a token "<img onerror=...>" is escaped, whoever
passes it.

`element` returns Markup, a str that it escapes no second time. Every other string, a sum of two Markups
included, counts as text: a mistake shows its tags to the reader and runs nothing. Nothing else in this
package writes a tag, which a test holds; in the page js/dom.js has the same part.
"""

import html
from typing import Any

TAGS = frozenset(("caption", "div", "figcaption", "figure", "p", "table", "tbody", "td", "th", "thead", "tr"))
ATTRIBUTES = frozenset(("class", "data-widget", "scope"))  # none that a browser would run or load

# HTML has no place for these: ␀ stands for NUL, and so on
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}


class Markup(str):
    """What element(), join() and data() made, and nobody else."""

    __slots__ = ()


def element(tag: str, attributes: dict[str, str], *children: Any) -> Markup:
    """One element. Children that are Markup stand as they are; any other becomes text.

    >>> element("p", {"class": "a"}, "1 < 2", element("td", {}, "<b>"))
    '<p class="a">1 &lt; 2<td>&lt;b&gt;</td></p>'
    """
    assert tag in TAGS, tag
    assert set(attributes) <= ATTRIBUTES, attributes
    given = "".join(f' {name}="{html.escape(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{given}>{join(*children)}</{tag}>")


def join(*children: Any) -> Markup:
    """Several children, one after the other."""
    return Markup(
        "".join(c if isinstance(c, Markup) else html.escape(str(c)).translate(CONTROLS) for c in children)
    )


def data(json: str) -> Markup:
    """A state that lies in a page for its script. Neither "</script>" nor "<!--" inside it ends the element."""
    return Markup('<script type="application/json">' + json.replace("<", "\\u003c") + "</script>")
