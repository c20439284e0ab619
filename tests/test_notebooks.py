"""Every chapter computes its stored outputs, keeps the book's form, and asserts what nbval ignores."""

import inspect
import itertools
import os
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from book.address import COLAB_CELL, differences
from book.validate import QUIET, asserts, run, validate
from llmcore import device

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))


chapters = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


def unasserted(notebook) -> list[int]:
    """Numbers of the cells that are tagged nbval-ignore-output (or skip) and assert nothing."""
    return [
        i
        for i, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        and {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", []))
        and not asserts(cell.source)
    ]


@pytest.fixture(scope="session")
def the_device_is_there():
    device.pick()  # one clear error before any kernel is started


@pytest.mark.slow
@chapters
def test_nbval(path, the_device_is_there):
    row, text = run(path)
    assert row["result"] == "passed", text[-6000:]


def warped(read):
    """A clock that runs faster each time it is read, then starts again.

    Its rate goes from a tenth of that of `read` to ten times that.
    """
    last, shown, reads = read(), 0.0, 0

    def clock():
        nonlocal last, shown, reads
        now = read()
        shown += 10 ** (reads % 31 / 15 - 1) * (now - last)
        last, reads = now, reads + 1
        return shown

    return clock


def test_the_warped_clock_runs_at_other_rates():
    ticks = itertools.count()
    clock = warped(lambda: next(ticks))
    shown = [clock() for _ in range(63)]
    rates = [b - a for a, b in itertools.pairwise([0.0, *shown])]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(10)
    assert (
        rates[12] / rates[0] > 6
    )  # twelve reads are two runs of best_seconds: equal work seems to take six times as long
    assert rates[31:62] == pytest.approx(rates[:31])


def reads_a_clock(path) -> bool:
    code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    return any(
        re.search(r"\b(best_seconds|perf_counter|thread_time|process_time)\b", source) for source in code
    )


TIMED = [p for p in CHAPTERS if reads_a_clock(p)]


@pytest.mark.slow
@pytest.mark.parametrize("path", TIMED, ids=lambda p: p.stem)
def test_no_clock_decides(path, tmp_path, the_device_is_there):
    """A chapter shows its measurements, and its asserts hold whatever the clocks of its processes say."""
    clocks = "for name in ('perf_counter', 'thread_time', 'process_time'):\n"
    clocks += "    setattr(time, name, warped(getattr(time, name)))\n"
    script = f"import time\n\n{inspect.getsource(warped)}\n{clocks}"
    # each Python of this environment runs this first
    (tmp_path / "sitecustomize.py").write_text(script, encoding="utf-8")
    where = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    told = validate(path, os.environ | QUIET | {"PYTHONPATH": where})
    assert told["status"] == 0, told["text"][-6000:]


@chapters
def test_an_ignored_output_is_asserted(path):
    assert unasserted(nbformat.read(path, as_version=4)) == []


def test_that_rule_can_fail():
    cell = lambda source, tags: nbformat.v4.new_code_cell(source, metadata={"tags": tags})
    ignored = ["nbval-ignore-output"]
    cells = [
        cell("print(1)", ignored),
        cell("print(1)", []),
        cell("assert x", ignored),
        cell("'assert'", ignored),
    ]
    assert unasserted(nbformat.v4.new_notebook(cells=cells)) == [0, 3]


@chapters
def test_form_of_a_chapter(path):
    notebook = nbformat.read(path, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert code[0].source == COLAB_CELL
    assert "device = " in code[1].source
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1)), (
        "run make refresh: outputs are not of one run"
    )
    exercises = [
        i
        for i, c in enumerate(notebook.cells)
        if c.cell_type == "markdown" and c.source.startswith("**Exercise")
    ]
    assert len(exercises) >= 3, "a chapter has at least three exercises"
    for i in exercises:
        answer = notebook.cells[i + 1]
        assert "hide-cell" in answer.metadata.get("tags", []), "the answer is hidden until asked for"
        assert asserts(answer.source), "a worked answer asserts itself"
    assert any("planted mistake" in notebook.cells[i].source for i in exercises)
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert "/root/" not in str(output)
            assert "/home/" not in str(output)


def test_the_table_of_contents_lists_exactly_the_chapters():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    listed = {toc["root"]} | {c["file"] for part in toc.get("parts", [toc]) for c in part.get("chapters", [])}
    there = {f"chapters/{p.stem}" for p in (ROOT / "chapters").iterdir() if p.suffix in (".md", ".ipynb")}
    assert listed == there


def test_the_text_on_the_first_page_is_what_the_model_of_3_1_wrote():
    first = (ROOT / "chapters" / "index.md").read_text(encoding="utf-8")
    quoted = " ".join(line.removeprefix("> ") for line in first.splitlines() if line.startswith("> "))
    told = nbformat.read(ROOT / "chapters" / "3-1-train-a-language-model.ipynb", as_version=4)
    printed = [o.get("text", "") for c in told.cells if c.cell_type == "code" for o in c.outputs]
    assert len(quoted) > 300
    assert any(quoted in " ".join(text.split()) for text in printed)


def test_the_address_stands_in_one_place():
    assert differences() == []


# A number in prose: not in a formula, code or address, not a date in brackets, not the name of a section or
# an exercise.
NOT_PROSE = re.compile(
    r"\$\$.*?\$\$|\$[^$]*\$|```.*?```|`[^`]*`|\[\[.*?\]\]\([^)]*\)|\]\([^)]*\)|\*\*Exercise \d+|^#[^\n]*$",
    re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?(?![\w-])")


def claims(notebook) -> list[tuple[str, list[str], int]]:
    """The sections (a `##` heading and what follows): heading, numbers in the prose, asserts in the code."""
    out = [("", [], 0)]
    for cell in notebook.cells:
        heading, numbers, count = out[-1]
        if cell.cell_type == "markdown":
            found = re.match(r"## (.*)", cell.source)
            if found:
                out.append((found[1], [], 0))
                heading, numbers, count = out[-1]
            numbers.extend(NUMBER.findall(NOT_PROSE.sub(" ", cell.source)))
        else:
            out[-1] = (heading, numbers, count + asserts(cell.source))
    return out


@chapters
def test_a_section_with_numbers_has_asserts(path, capsys):
    sections = claims(nbformat.read(path, as_version=4))
    total = sum(len(numbers) for _, numbers, _ in sections), sum(count for *_, count in sections)
    with capsys.disabled():
        print(f"\n  {path.stem}: {total[0]} numbers in prose, {total[1]} asserts", end="")
    unproved = [
        (heading, numbers) for heading, numbers, count in sections[1:] if len(numbers) > 2 and count == 0
    ]
    assert unproved == []
    assert total[1] >= 10


def test_that_rule_can_fail_too():
    cells = [
        nbformat.v4.new_markdown_cell(
            "## How many?\n\nThere are 201 rows, `3` more, $4$ less, and 5.5 of 7."
        ),
        nbformat.v4.new_code_cell("x = 1"),
        nbformat.v4.new_markdown_cell("## And 9?\n\nNone."),
        nbformat.v4.new_code_cell("assert x\ntorch.testing.assert_close(x, x)"),
    ]
    assert claims(nbformat.v4.new_notebook(cells=cells)) == [
        ("", [], 0),
        ("How many?", ["201", "5.5", "7"], 0),
        ("And 9?", [], 2),
    ]
