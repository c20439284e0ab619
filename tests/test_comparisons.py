"""Trainings that a chapter compares: at least four rates, three starts each; all are found again."""

import ast
import importlib.util
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("comparisons", ROOT / "benchmarks" / "comparisons.py")
comparisons = importlib.util.module_from_spec(spec)
spec.loader.exec_module(comparisons)
CODE = {path.stem: comparisons.cells(path) for path in (ROOT / "chapters").glob("*.ipynb")}
CHAPTERS = {name: sources for name, sources in CODE.items() if sources}


def table_of(sources: list[str]) -> dict:
    """FOUND, as the chapter's last cell of those states it."""
    cell = ast.parse(sources[-1]).body
    assigned = [node for node in cell if isinstance(node, ast.Assign)]
    (table,) = (node.value for node in assigned if getattr(node.targets[0], "id", "") == "FOUND")
    return ast.literal_eval(table)


def test_the_chapters_that_keep_figures_are_found():
    assert set(CHAPTERS) == {"2-2-1-2-2-residual-norm", "2-2-1-2-3-feed-forward"}


def test_every_training_that_is_compared_has_four_rates_and_three_starts():
    for sources in CHAPTERS.values():
        rates = defaultdict(set)
        for what, figures in table_of(sources).items():
            rates[what[:-1]].add(what[-1])
            assert len(figures) == 3
        assert min(map(len, rates.values())) >= 4


def test_the_best_rate_lies_inside_the_rates_that_were_tried():
    """Else a rate that was not tried may be better still."""
    for sources in CHAPTERS.values():
        means = defaultdict(dict)
        for what, figures in table_of(sources).items():
            first = [figure[0] if isinstance(figure, tuple) else figure for figure in figures]
            means[what[:-1]][what[-1]] = sum(first) / len(first)
        for what, of_rate in means.items():
            best = min(of_rate, key=of_rate.get)
            assert what[0] == "no residual" or min(of_rate) < best < max(of_rate), what


def test_a_cell_without_both_names_is_no_table():
    assert comparisons.names("FOUND = {}\nx = 1\ndef compare(): pass") == {"FOUND", "x", "compare"}
    assert comparisons.names("if True:\n    FOUND = {}") == set()
