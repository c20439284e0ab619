"""Compute again the figures of chapters that compare trainings and would take too long for a page.

python benchmarks/comparisons.py                                        all of them: half an hour on one core
python benchmarks/comparisons.py chapters/2-2-1-2-2-residual-norm.ipynb

A chapter keeps them as FOUND, {what is compared, the rate last: one figure per start}, in the cell that also
defines compare(*what, seed). Its code is run up to that cell, so what is computed here is what the page says.
Prints every figure beside the stored one. Exits with 1 if one differs by more than the starts do: then the
chapter's table and prose must be read again.
"""

import ast
import sys
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def names(source: str) -> set[str]:
    """The names that a cell assigns or defines at its top level."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def cells(path: Path) -> list[str]:
    """The code of a chapter up to the cell that holds FOUND and compare, without the Colab cell.

    [] where there is no such cell.
    """
    notebook = nbformat.read(path, as_version=4)
    _, *sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for i, source in enumerate(sources):
        if {"FOUND", "compare"} <= names(source):
            return sources[: i + 1]
    return []


def again(path: Path) -> bool:
    """Train everything that FOUND compares. Does each figure lie near the stored one?

    Near: within the spread of the stored starts, or 0.1 where that is smaller.
    """
    space: dict[str, Any] = {"__name__": "chapter"}
    for source in cells(path):
        exec(compile(source, str(path), "exec"), space)
    same = True
    for what, stored in space["FOUND"].items():
        before = np.array(stored)  # (starts,), or (starts, figures) where a training has several
        found = np.array([space["compare"](*what, seed) for seed in range(len(stored))])
        agrees = bool((np.abs(found - before) <= np.maximum(0.1, np.ptp(before, axis=0))).all())
        same &= agrees
        verdict = "" if agrees else "  DIFFERS"
        print(f"{what}: {found.round(2).tolist()}, stored {before.tolist()}{verdict}", flush=True)
    return same


def main(arguments: list[str]) -> int:
    matplotlib.use("Agg")
    paths = [Path(a).resolve() for a in arguments] or sorted((ROOT / "chapters").glob("*.ipynb"))
    checked = [again(path) for path in paths if cells(path)]  # all of them, also after one that differs
    return int(not all(checked))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
