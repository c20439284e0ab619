"""The report of the last checks: copies the results of nbval's last runs to where the book's page shows them.

python -m book report   merges _build/checked/REPORT/CHAPTER.json into chapters/checked/REPORT.json

A row is written by book/validate.py, for Colab through book/colab/run.py, and by nothing else. A chapter that
was not run again keeps its earlier row, with its date.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from book.places import KEPT, ROOT, ROWS

Row = dict[str, Any]
# the reports that the page has a section for, even if there never was such a run
REPORTS = {
    "cpu": "CPU",
    "cpu-other": "CPU, other settings",
    "cuda": "CUDA",
    "colab": "Colab's environment",
}


def read(path: Path) -> dict[str, Row]:
    """The rows of a committed report by chapter; none where there is no report."""
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {row["chapter"]: row for row in rows}


def merge(
    rows: Path = ROWS,
    kept: Path = KEPT,
    chapters: Path = ROOT / "chapters",
    names: Collection[str] = tuple(REPORTS),
) -> dict[str, int]:
    """Bring the rows of these reports up to date from a folder of new rows.

    Returns the number of new rows of each report. Raises ValueError where there is none at all.
    """
    there = {p.stem for p in chapters.glob("*.ipynb")}
    load = lambda path: json.loads(path.read_text(encoding="utf-8"))
    new = {
        name: {p.stem: load(p) for p in sorted((rows / name).glob("*.json")) if p.stem in there}
        for name in names
    }
    new = {name: found for name, found in new.items() if found}
    if not new:
        raise ValueError(
            f"{rows} has no row of any of {list(names)}: "
            "run make notebooks DEVICE=cpu (or cuda), or make colab, first"
        )
    for name, found in new.items():
        path = kept / f"{name}.json"
        old = {c: row for c, row in read(path).items() if c in there}
        kept.mkdir(parents=True, exist_ok=True)
        text = json.dumps([row for _, row in sorted((old | found).items())], indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    return {name: len(found) for name, found in new.items()}


def main() -> int:
    try:
        for name, count in merge().items():
            print(f"chapters/checked/{name}.json: {count} rows of the last run")
    except ValueError as error:
        print(error)
        return 2
    return 0
