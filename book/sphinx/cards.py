"""The card that is shown where a page's address is shared, drawn from the page's title and description."""

import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image

WIDTH, HEIGHT, COLOURS = 1200, 630, 32
LOGO = {
    "#2166ac": ["00", "01", "02", "03"],
    "#4393c3": ["11", "12", "13"],
    "#f4a582": ["22", "23"],
    "#b2182b": ["33"],
}


def card(title: str, said: str, book: str, address: str) -> Image.Image:
    """1200 x 630 pixels in a palette: the book's name and mark, the page's title, what it says, where it
    stands.
    """
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")
    axes.add_patch(
        FancyBboxPatch((0, HEIGHT - 12), WIDTH, 12, boxstyle="square,pad=0", linewidth=0, facecolor="#2166ac")
    )
    for colour, cells in LOGO.items():
        for column, row in cells:
            corner = (80 + 21 * int(column), 64 + 21 * int(row))
            axes.add_patch(
                FancyBboxPatch(
                    corner, 16, 16, boxstyle="round,pad=0,rounding_size=3", linewidth=0, facecolor=colour
                )
            )
    write = {"va": "top", "family": "DejaVu Sans", "parse_math": False}
    axes.text(190, 88, book, fontsize=21, color="#444444", **write)
    lines = textwrap.wrap(title, 32, break_on_hyphens=False)
    size = 40 if len(lines) < 3 else 32
    axes.text(
        80, 190, "\n".join(lines), fontsize=size, color="#111111", weight="bold", linespacing=1.15, **write
    )
    axes.text(
        80, 360, "\n".join(textwrap.wrap(said, 66)), fontsize=21, color="#333333", linespacing=1.4, **write
    )
    axes.text(80, 552, address, fontsize=18, color="#2166ac", **write)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(COLOURS)
