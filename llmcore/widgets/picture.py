"""Pictures with real numbers, as SVG that follows the width and the colours of the page it stands on.

Lengths are in units of the picture, 360 across: on a phone one unit is about a pixel. Text takes the colour
of the text around it; numbers are shaded red above 0 and blue below, as in every widget.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from llmcore.widgets.markup import Markup, element, join

WIDTH = 360
PLUS, MINUS, LIT, PALE = "#b2182b", "#2166ac", "#bf5700", "#808080"

# the machine: name, left edge and width of its boxes; the second row runs backward
FORWARD = (
    ("text", 1, 32),
    ("ids", 43, 27),
    ("vectors", 80, 48),
    ("attention", 138, 58),
    ("feed-forward", 206, 72),
    ("probabilities", 287, 72),
)
BACKWARD = (("loss", 304, 40), ("gradients", 212, 60), ("update", 143, 48))
PARTS = tuple(name for name, _, _ in (*FORWARD, *BACKWARD))


@dataclass
class Picture:
    """A drawing of `height` units; `alt` says in words what it shows, for those who do not see it.

    >>> picture = Picture(20, "one number").cells(0, 0, [0.25])
    >>> picture
    Picture('one number')
    """

    height: float
    alt: str
    marks: list[Markup] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise ValueError("alt is empty: say in words what the picture shows")

    def _add(self, tag: str, attributes: dict[str, Any], *children: Any) -> "Picture":
        values = {name: _number(v) if isinstance(v, int | float) else v for name, v in attributes.items()}
        self.marks.append(element(tag, values, *children))
        return self

    def text(
        self, x: float, y: float, words: object, size: float = 11, anchor: str = "start", lit: bool = False
    ) -> "Picture":
        """Words whose baseline is at y; anchor is "start", "middle" or "end" of them at x."""
        look = {"font-size": size, "text-anchor": anchor, "fill": "currentColor"}
        look |= {"font-weight": "bold"} if lit else {}
        return self._add("text", {"x": x, "y": y, **look}, words)

    def box(
        self, x: float, y: float, width: float, height: float, words: object = "", lit: bool = False
    ) -> "Picture":
        """A frame with words in its middle; a lit one is filled."""
        look = {"fill": LIT, "fill-opacity": 0.3} if lit else {"fill": "none"}
        edge = {"stroke": LIT if lit else PALE, "stroke-width": 1.6 if lit else 1}
        self._add("rect", {"x": x, "y": y, "width": width, "height": height, "rx": 4, **look, **edge})
        return self.text(x + width / 2, y + height / 2 + 4, words, 10, "middle", lit) if words != "" else self

    def cells(
        self, x: float, y: float, values: Sequence[float], width: float = 40, digits: int = 2, most: float = 1
    ) -> "Picture":
        """A row of numbers, each shaded by its size beside `most`."""
        for i, value in enumerate(values):
            shade = {"fill": PLUS if value > 0 else MINUS, "fill-opacity": 0.6 * min(1, abs(value) / most)}
            self._add(
                "rect", {"x": x + i * width, "y": y, "width": width - 2, "height": 18, "rx": 2, **shade}
            )
            self.text(x + (i + 0.5) * width - 1, y + 13, f"{value:.{digits}f}", 10, "middle")
        return self

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], width: float = 1, lit: bool = False
    ) -> "Picture":
        """A line with a head at its end."""
        look = {"stroke": LIT if lit else PALE, "stroke-width": width}
        (x0, y0), (x1, y1) = start, end
        self._add("line", {"x1": x0, "y1": y0, "x2": x1, "y2": y1, **look})
        length = max(1e-9, ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5)
        along, size = ((x1 - x0) / length, (y1 - y0) / length), 3.5 + width / 2
        back = x1 - size * along[0], y1 - size * along[1]
        across = -along[1] * size / 2, along[0] * size / 2
        corners = [
            (x1, y1),
            (back[0] + across[0], back[1] + across[1]),
            (back[0] - across[0], back[1] - across[1]),
        ]
        points = " ".join(f"{_number(a)},{_number(b)}" for a, b in corners)
        return self._add("polygon", {"points": points, "fill": LIT if lit else PALE})

    def line(
        self, start: tuple[float, float], end: tuple[float, float], width: float = 1, lit: bool = False
    ) -> "Picture":
        """A line without a head; its width may stand for a number."""
        look = {"stroke": LIT if lit else PALE, "stroke-width": width, "stroke-opacity": 0.8}
        return self._add("line", {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1], **look})

    def bar(self, x: float, y: float, length: float, height: float = 12, lit: bool = False) -> "Picture":
        """A filled bar from x to the right."""
        look = {"fill": LIT if lit else PALE, "fill-opacity": 0.9 if lit else 0.6}
        return self._add("rect", {"x": x, "y": y, "width": max(length, 0.5), "height": height, **look})

    def dot(self, x: float, y: float, lit: bool = False) -> "Picture":
        return self._add("circle", {"cx": x, "cy": y, "r": 3, "fill": LIT if lit else PALE})

    @property
    def html(self) -> Markup:
        """The figure, as markup."""
        size = {"viewBox": f"0 0 {WIDTH} {_number(self.height)}", "role": "img", "class": "ll-picture"}
        style = {"width": "100%", "font-family": "system-ui, sans-serif"}
        drawn = element("svg", {**size, **style}, element("title", {}, self.alt), *self.marks)
        return element("div", {"class": "ll-drawing"}, drawn)

    def __repr__(self) -> str:
        return f"Picture({self.alt!r})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        # a page that does not know the class still keeps the picture from growing without limit
        return {"text/plain": repr(self), "text/html": join(LIMIT, self.html)}


LIMIT = element(
    "style", {}, ".ll-drawing { max-width: 34rem; margin: 1rem 0; } .ll-drawing svg { display: block; }"
)


def machine(*lit: str) -> Picture:
    """The whole machine in nine boxes, the parts named in `lit` filled; the same picture opens every chapter.

    >>> machine("loss", "update").alt.partition("Lit: ")[2]
    'loss, update.'
    """
    unknown = set(lit) - set(PARTS)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no such part; choose from {', '.join(PARTS)}")
    shown = f" Lit: {', '.join(name for name in PARTS if name in lit)}." if lit else ""
    picture = Picture(84, f"The machine: {', '.join(PARTS)}, and back.{shown}")
    for (_, left, width), (_, right, _) in pairwise(FORWARD):
        picture.arrow((left + width + 1, 14), (right - 1, 14))
    picture.arrow((324, 26), (324, 54)).arrow((303, 66), (274, 66)).arrow((211, 66), (193, 66))
    # the update changes every weight: those of the vectors, of attention and of the feed-forward layer
    picture.arrow((167, 53), (167, 28)).line((104, 40), (242, 40)).arrow((104, 40), (104, 28)).arrow(
        (242, 40), (242, 28)
    )
    for name, left, width in FORWARD:
        picture.box(left, 3, width, 22, name, name in lit)
    for name, left, width in BACKWARD:
        picture.box(left, 55, width, 22, name, name in lit)
    return picture


def _number(value: float) -> str:
    """At most one decimal: a picture is the same on every machine.

    >>> _number(2.0), _number(-0.04), _number(1.26)
    ('2', '0', '1.3')
    """
    return f"{round(float(value), 1) + 0.0:.1f}".removesuffix(".0")
