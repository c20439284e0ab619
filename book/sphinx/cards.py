"""The picture that is shown where a page's address is shared, drawn from its title and description."""

import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

WIDTH, HEIGHT = 1200, 630  # pixels, the size that sites ask for in og:image
COLOURS = 32  # of the palette
LOGO = {
    "#2166ac": ["00", "01", "02", "03"],
    "#4393c3": ["11", "12", "13"],
    "#f4a582": ["22", "23"],
    "#b2182b": ["33"],
}


def card(title: str, said: str, book: str, address: str) -> Image.Image:
    """The book's logo and name, a page's title, its description and the book's address, 1200 x 630 pixels."""
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")

    def box(corner: tuple[float, float], width: float, height: float, colour: str, style: str) -> None:
        axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, linewidth=0, facecolor=colour))

    box((0, HEIGHT - 12), WIDTH, 12, "#2166ac", "square,pad=0")
    for colour, cells in LOGO.items():
        for column, row in cells:
            corner = (80 + 21 * int(column), 64 + 21 * int(row))
            box(corner, 16, 16, colour, "round,pad=0,rounding_size=3")
    font = {"va": "top", "family": "DejaVu Sans", "parse_math": False}
    write = lambda x, y, text, size, colour, **more: axes.text(
        x, y, text, fontsize=size, color=colour, **font, **more
    )
    write(190, 88, book, 21, "#444444")
    lines = textwrap.wrap(title, 32, break_on_hyphens=False)
    size = 40 if len(lines) < 3 else 32
    write(80, 190, "\n".join(lines), size, "#111111", weight="bold", linespacing=1.15)
    write(80, 360, "\n".join(textwrap.wrap(said, 66)), 21, "#333333", linespacing=1.4)
    write(80, 552, address, 18, "#2166ac")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS)
