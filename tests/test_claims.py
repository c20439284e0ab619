"""Planted falsehoods: a loose assert lets one pass, a tight one refuses it; each file fits its chapter."""

import nbformat
import pytest

from book.claims import AT_LEAST, check, falsehoods
from book.places import in_order

CELLS = [
    "numbers = [1.0, 2.0, 3.0]",
    "mean = sum(numbers) / 3\nassert mean > 0",
    "largest = max(numbers)\nassert largest == 3",
    "for n in []:\n    assert n\nassert all(n > 0 for n in numbers)",
]
LIST = """
[[falsehood]]
says = "the mean is the sum"
find = "sum(numbers) / 3"
put = "sum(numbers)"

[[falsehood]]
says = "the largest is the smallest"
find = "max(numbers)"
put = "min(numbers)"

[[falsehood]]
says = "the numbers are negative"
find = "[1.0, 2.0, 3.0]"
put = "[-1.0, -2.0, -3.0]"

[[falsehood]]
says = "the largest has another name"
find = "largest = max"
put = "biggest = max"
"""


@pytest.fixture
def chapter(tmp_path):
    """A chapter of four cells and its planted falsehoods."""
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "a.toml").write_text(LIST, encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_loose_assert_lets_a_falsehood_pass_and_a_tight_one_refuses_it(chapter):
    found = {verdict.says: (verdict.outcome, verdict.cell) for verdict in check(chapter)}
    assert found == {
        "the mean is the sum": ("passed", 1),
        "the largest is the smallest": ("refused", 2),
        "the numbers are negative": ("refused", 1),
        "the largest has another name": ("error", 2),
        "the assert 'assert n' is never reached": ("passed", 3),
    }


@pytest.mark.slow
def test_what_a_falsehood_does_is_gone_afterwards(chapter):
    """The chapter itself still holds after each, and a chapter that does not hold is named."""
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("assert len(numbers) == 3 and mean == 2"))
    nbformat.write(notebook, chapter)
    assert len(check(chapter)) == 5
    notebook.cells.append(nbformat.v4.new_code_cell("assert mean == 3"))
    nbformat.write(notebook, chapter)
    with pytest.raises(RuntimeError, match="cell 5 of the chapter itself ends in AssertionError"):
        check(chapter)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('find = "max(numbers)"', 'find = "numbers"', "stands 4 times in the code, not once"),
        ('find = "max(numbers)"', 'find = "median"', "stands 0 times"),
        ('put = "min(numbers)"', 'put = "max(numbers)"', "changes nothing"),
        ('says = "the numbers are negative"', 'says = "the mean is the sum"', "two falsehoods are the same"),
    ],
)
def test_a_file_that_does_not_fit_its_chapter_is_refused(chapter, old, new, said):
    path = chapter.parent / "claims" / "a.toml"
    path.write_text(LIST.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        falsehoods(chapter)


LISTED = [path for path in in_order() if (path.parent / "claims" / f"{path.stem}.toml").exists()]


@pytest.mark.parametrize("path", LISTED, ids=lambda path: path.stem)
def test_a_chapter_s_falsehoods_fit_it_and_are_enough(path):
    assert len(falsehoods(path)) >= AT_LEAST


def test_every_file_of_falsehoods_belongs_to_a_chapter():
    there = {file.stem for path in LISTED for file in (path.parent / "claims").iterdir()}
    assert there == {path.stem for path in LISTED}
    assert LISTED


@pytest.mark.slow
def test_the_asserts_of_the_first_chapter_refuse_every_falsehood():
    """`make claims` does the same for every chapter that has a list."""
    assert {verdict.outcome for verdict in check(LISTED[0])} == {"refused"}
