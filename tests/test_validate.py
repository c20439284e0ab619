"""A row of the report says what nbval found and where the kernel ran, and a report holds no other rows."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from book.report import REPORTS, merge, read
from book.sphinx.provenance import markdown
from book.validate import asserts, is_compared, run, write_row
from tools.variants import environment

START = "import torch\ndevice = torch.device('cpu')"


def chapter(root: Path, name: str, *cells: tuple) -> Path:
    """A notebook of cells (code, stored text, tags), beside a library and pins as the hashes want them."""
    (root / "llmcore").mkdir(exist_ok=True)
    (root / "llmcore/__init__.py").touch()
    (root / "constraints.txt").touch()
    made = []
    for number, (code, text, *tags) in enumerate(cells, 1):
        outputs = [nbformat.v4.new_output("stream", text=text)] if text else []
        made.append(
            nbformat.v4.new_code_cell(code, execution_count=number, outputs=outputs, metadata={"tags": tags})
        )
    path = root / "chapters" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


@pytest.mark.slow
def test_a_row_says_what_nbval_found(tmp_path):
    good = [
        (START, ""),
        ("print(1 + 1)\nassert device.type == 'cpu'", "2\n"),
        ("import time\nprint(time.time())\nassert time.time() > 0", "0\n", "nbval-ignore-output"),
        ("x = 3\ntorch.testing.assert_close(x, x)\nassert x", ""),
    ]
    row, text = run(chapter(tmp_path, "good", *good), "cpu", "", tmp_path)
    assert row["result"] == "passed", text
    assert (row["cells"], row["passed"], row["compared"], row["asserts"]) == (4, 4, 1, 4)
    assert row["device"] == "cpu"
    assert row["torch"].split("+")[0] == __import__("torch").__version__.split("+")[0]
    assert row["python"] == sys.version.split()[0]
    assert json.loads((tmp_path / "cpu/good.json").read_text()) == row

    row, text = run(tmp_path / "chapters/good.ipynb", "cuda", "", tmp_path)
    assert row["result"] == "failed", "asked for CUDA, ran on the CPU"
    assert "asked for cuda, and the chapter ran on cpu" in text
    assert not (tmp_path / "cuda").exists(), "no report on CUDA holds what ran on the CPU"


@pytest.mark.slow
def test_what_differs_or_raises_is_a_failure(tmp_path):
    bad = [(START, ""), ("print(1 + 1)", "3\n"), ("assert 1 == 2", ""), ("print(5)", "5\n")]
    row, text = run(chapter(tmp_path, "bad", *bad), "cpu", "", tmp_path)
    assert (row["result"], row["cells"], row["passed"], row["compared"], row["asserts"]) == (
        "failed",
        4,
        2,
        1,
        0,
    )
    assert "Cell outputs differ" in text
    assert "AssertionError" in text

    row, text = run(chapter(tmp_path, "nowhere", ("print(1)", "1\n")), "cpu", "", tmp_path)
    assert row["result"] == "failed", "a chapter that names no device is not said to have run on one"
    assert "did not say on which device" in text


@pytest.mark.slow
def test_the_other_settings_find_what_depends_on_the_machine(tmp_path):
    """Other threads, instructions and default device reach the chapter; a cell that shows them is caught."""
    torch = __import__("torch")
    mine = f"{torch.backends.cpu.get_cpu_capability()}\n"
    cells = [
        (START, ""),
        ("print(torch.utils._device.CURRENT_DEVICE)", "cpu\n"),
        ("print(torch.backends.cpu.get_cpu_capability())", mine),
    ]
    row, text = run(chapter(tmp_path, "machine", *cells), "cpu", "other", tmp_path)
    other = environment("other").get("ATEN_CPU_CAPABILITY", "default")
    assert row["on"].lower() == other
    assert row["passed"] == (2 if mine.strip().lower() != other else 3), text
    assert row["threads"] == int(environment("other")["OMP_NUM_THREADS"])
    assert json.loads((tmp_path / "cpu-other/machine.json").read_text()) == row


def test_what_counts_as_compared():
    text, picture = {"text/plain": "4"}, {"text/plain": "<Figure>", "image/png": "iVBO"}
    view = {"application/vnd.jupyter.widget-view+json": {}}

    def compared(*data, check=True, stream=False):
        outputs = [nbformat.v4.new_output("display_data", data=d) for d in data]
        outputs += [nbformat.v4.new_output("stream", text="4")] if stream else []
        parent = SimpleNamespace(skip_compare=("metadata", "output_type", "name", *view, "image/png"))
        return is_compared(
            SimpleNamespace(
                parent=parent, options={"check": check}, cell=nbformat.v4.new_code_cell(outputs=outputs)
            )
        )

    assert compared(text)
    assert compared(stream=True)
    assert compared(picture, text)
    assert compared({**view, **text})
    assert not compared()
    assert not compared(picture)
    assert not compared(view)
    assert not compared(text, check=False)


def test_asserts_are_counted():
    assert asserts("assert x\ntorch.testing.assert_close(a, b)\nif y:\n    assert_close(a, b)\n'assert'") == 3


ROW = {
    "result": "passed", "cells": 9, "passed": 9, "compared": 7, "asserts": 12, "seconds": 1.5,
    "system": "Linux x86_64", "when": "2026-11-24 10:00", "device": "cpu", "on": "AVX2", "threads": 2,
    "torch": "2.13.0", "numpy": "2.4.6", "llmcore": "0.1.0", "python": "3.11.7",
}  # fmt: skip


def test_a_kept_report_holds_the_last_row_of_each_chapter_that_exists(tmp_path):
    for name in ("one", "two"):
        chapter(tmp_path, name, (START, ""))
    places = {"rows": tmp_path / "rows", "kept": tmp_path / "kept", "chapters": tmp_path / "chapters"}
    with pytest.raises(ValueError, match="has no row of any of"):
        merge(**places)
    for name in ("one", "two", "gone"):
        write_row({"chapter": name, "of": "a", **ROW}, tmp_path / "rows/cpu")
    write_row({"chapter": "one", "of": "a", **ROW}, tmp_path / "rows/unknown")
    assert merge(**places) == {"cpu": 2}
    for path in (tmp_path / "rows/cpu").iterdir():
        path.unlink()
    write_row({"chapter": "two", "of": "b", **ROW, "result": "failed", "passed": 8}, tmp_path / "rows/cpu")
    assert merge(**places) == {"cpu": 1}
    kept = read(tmp_path / "kept/cpu.json")
    assert {c: (row["result"], row["of"]) for c, row in kept.items()} == {
        "one": ("passed", "a"),
        "two": ("failed", "b"),
    }
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["cpu.json"]


def test_the_page_claims_no_more_than_the_rows():
    now = {"one": "a", "two": "b", "three": "c", "four": "d"}
    rows = {
        "one": {**ROW, "of": "a"},
        "two": {**ROW, "of": "an earlier one", "python": "3.12.1"},
        "three": {**ROW, "of": "c", "result": "failed", "passed": 8},
    }
    page = markdown("CPU", rows, now)
    assert "1 of 4 chapters passed as they stand here." in page
    assert "| [one](one) | passed | 9 | 7 | 12 | 1.5 | 2026-11-24 10:00 |" in page
    assert "| [two](two) | passed, of an earlier version |" in page
    assert "| [three](three) | failed (8 of 9 cells passed) |" in page
    assert "| [four](four) | not run | | | | | |" in page
    assert (
        "Python 3.11.7, torch 2.13.0, numpy 2.4.6, llmcore 0.1.0; cpu, AVX2, threads: 2; "
        "Linux x86_64 (chapters: 2)" in page
    )
    assert "Python 3.12.1" in page


@pytest.mark.parametrize("title", REPORTS.values())
def test_the_page_says_where_there_is_no_report(title):
    assert (
        markdown(title, {}, {"one": "a"})
        == f"**No run on this device has been kept: nothing is claimed for {title}.**\n"
    )
