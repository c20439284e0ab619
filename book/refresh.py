"""Run chapters, store their outputs, and write into each what the outputs rest on (book/freshness.py).

python -m book refresh             the stale chapters
python -m book refresh NAME ...    these, stale or not; --all: every chapter
python -m book bless [NAME ...]    compare with nbval, store nothing, and mark those that agree as fresh
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from book.freshness import Parts, parts, stale
from book.places import ROOT, chapters_named, notebooks
from book.validate import run

KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def refresh(path: Path, root: Path = ROOT) -> None:
    """Execute a notebook in its own folder and write it back, without times and machine names."""
    before = parts(path, root)
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": path.parent}}
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", coalesce_streams=True, resources=where
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the times at which it ran
        for output in cell.get("outputs", []):
            if "text/html" in output.get("data", {}):  # a live view needs its kernel: the figure is stored
                output.data.pop("application/vnd.jupyter.widget-view+json", None)
    unchanged(path, root, before)
    described = {"myst": notebook.metadata["myst"]} if "myst" in notebook.metadata else {}
    notebook.metadata = {**KERNEL, **described, "llmcore": {"fresh": before}}
    nbformat.write(notebook, path)
    print(f"refreshed {path.relative_to(root)}")


def bless(path: Path, root: Path = ROOT) -> bool:
    """Mark a chapter as fresh if nbval finds that it still computes its stored outputs.

    Its cells and outputs are not touched. nbval does not compare pictures: where a change may move a figure,
    refresh instead.
    """
    before = parts(path, root)
    row, text = run(path, rows=root / "_build" / "checked")
    if row["result"] != "passed":
        print(f"{text[-6000:]}\nNOT fresh: {path.relative_to(root)}; if what differs is meant, refresh it")
        return False
    unchanged(path, root, before)
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["llmcore"] = {"fresh": before}
    nbformat.write(notebook, path)
    said = f"{row['compared']} cells compared, {row['seconds']} s"
    print(f"fresh: {path.relative_to(root)} ({said})", flush=True)
    return True


def unchanged(path: Path, root: Path, before: Parts) -> None:
    """Raise RuntimeError if what the chapter rests on is not what it was before the run."""
    if parts(path, root) != before:
        raise RuntimeError(f"{path.name} or what it imports was changed while it ran: run this again")


def main(names: list[str], all_of_them: bool = False, only_bless: bool = False, root: Path = ROOT) -> int:
    try:
        chapters = chapters_named(names, root) or (notebooks(root) if all_of_them else list(stale(root)))
    except ValueError as error:
        print(error)
        return 2
    if not chapters:
        print("every chapter is fresh")
    if only_bless:
        with ThreadPoolExecutor(2) as two:  # each waits for a process of its own
            return int(not all(list(two.map(lambda path: bless(path, root), chapters))))
    for path in chapters:
        refresh(path, root)
    return 0
