"""Imports point downward: a module imports only from the levels above it in this list."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "llmcore"

LEVELS = [
    {"files", "quantities"},
    {"checks"},
    {"mask"},
    {"shortcuts"},
    {"autograd", "config", "functional", "device", "tokenizer", "download", "optim", "data", "tiled_triton"},
    {"linear", "loss", "norm", "position", "corpus"},
    {"feedforward", "embedding", "tiled"},
    {"attention"},
    {"block"},
    {"model"},
    {"trace", "toy", "sampling", "accounting", "checkpoint", "pretrained"},
    {"distributed", "planning", "roofline"},
    {"trainer", "widgets"},
    {"run"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def part_of(path: Path) -> str:
    """The module or subpackage, directly below llmcore, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module] if node.module != "llmcore" else [f"llmcore.{a.name}" for a in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("llmcore.")}
    return found


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    here = part_of(path)
    assert here in LEVEL, f"{here} has no level: add it to LEVELS"
    for there in imported(path) - {here}:
        assert LEVEL[there] < LEVEL[here], f"{path.name} imports {there}, which is not below it"


def test_a_level_names_only_what_exists():
    assert set(LEVEL) == {part_of(p) for p in FILES}


def test_config_to_model_to_trace_is_one_sitting():
    """Lines of code and comment (no blank lines) that a reader of the model meets."""
    names = [
        "config",
        "linear",
        "norm",
        "mask",
        "position",
        "feedforward",
        "embedding",
        "attention",
        "block",
        "model",
        "trace",
    ]
    lines = [line for n in names for line in (PACKAGE / f"{n}.py").read_text().splitlines() if line.strip()]
    assert len(lines) < 830


ROOT = PACKAGE.parent
CODE = [
    p for folder in ("llmcore", "book", "tools", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")
]


def test_a_function_ends_on_the_page_on_which_it_begins():
    """Under 60 lines each."""
    lengths = [
        (f"{path.relative_to(ROOT)}: {node.name}", node.end_lineno - node.lineno + 1)
        for path in CODE
        if "node_modules" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(lengths) > 1000
    assert [(name, lines) for name, lines in lengths if lines >= 60] == []
