"""MatrixInspector: open any array."""

from collections.abc import Sequence
from typing import Any

import traitlets

from llmcore.widgets.arrays import Scale, ship, table
from llmcore.widgets.base import Widget
from llmcore.widgets.markup import element, join


class MatrixInspector(Widget):
    """An array of 1 to 4 axes as a heat map: the last two axes are the table, those before are sliders.

    labels: for each axis a list of texts (tokens, dimensions, heads) or None. axes: what each axis is called.
    An array of more than 4,096 numbers is reduced to the means of blocks, and the figure says so. `selection`
    is the index of the chosen cell. Raises ValueError for an empty or ragged array, dtype object, more than
    four axes, or labels of another length.
    """

    kind = traitlets.Unicode("matrix").tag(sync=True)

    def __init__(
        self,
        values: Any,
        name: str = "x",
        labels: Sequence[Sequence[Any] | None] | None = None,
        axes: Sequence[str] | None = None,
        scale: Scale | None = None,
        caption: str = "",
    ):
        shipped = ship(values, name, labels, axes, scale)
        sizes = " x ".join(map(str, shipped["full"]))
        note = ""
        if shipped["full"] != shipped["shape"]:
            rows, columns = ([1] + shipped["block"])[-2:]
            note = f"{name} has {sizes} numbers; each cell is the mean of {rows} x {columns} of them."
        shape = f"{name}, {sizes}"
        still = join(table(shipped), element("p", {}, note)) if note else table(shipped)
        super().__init__({"array": shipped, "note": note}, still, shape, caption)
