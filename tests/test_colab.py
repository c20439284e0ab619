"""A chapter runs in Colab: its packages do not change, llmcore comes from its address, all is drawn."""

import ast
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from book.address import ADDRESS, COLAB_CELL, RELEASE
from book.colab import run as colab_run
from book.colab.run import LAID, PACKAGES, complaints, interpreters, snapshot
from book.places import in_order
from book.report import merge
from book.sphinx.provenance import markdown
from book.validate import shown

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FIRST = "appendix-notation"  # the shortest chapter that draws a figure and shows widgets


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return snapshot(tmp_path_factory.mktemp("snapshot"))


@pytest.fixture(scope="module")
def made():
    """The environment, and what it took to make or to find it."""
    if not any(interpreters()):
        pytest.skip(
            f"none of Python {colab_run.PYTHONS} is on this machine: "
            "Colab's packages are not made for another"
        )
    began = time.perf_counter()
    return colab_run.base(), time.perf_counter() - began


@pytest.mark.slow
def test_a_chapter_as_colab_runs_it(tree, made, tmp_path, capsys):
    """One chapter from its first cell to its last; make colab does the same for all."""
    environment, seconds = made
    began = time.perf_counter()
    row, text = colab_run.run(FIRST, environment, *tree, rows=tmp_path)
    with capsys.disabled():
        print(
            f"\n  {FIRST} in Colab's environment, Python {environment.python}; unlike Colab: "
            f"{environment.differs()}",
            end="; ",
        )
        print(
            f"{', '.join(environment.refused)}; "
            f"{seconds:.0f} s to make it, {time.perf_counter() - began:.0f} s for the chapter",
            end="",
        )
    assert row["result"] == "passed", text[-6000:]
    assert (row["numpy"], row["torch"].split("+")[0]) == (PACKAGES["numpy"], environment.torch.split("+")[0])
    stored = [
        shown(c.outputs)
        for c in nbformat.read(ROOT / f"chapters/{FIRST}.ipynb", 4).cells
        if c.cell_type == "code"
    ]
    for kind in ("pictures", "widgets"):
        assert row[kind] == sum(cell[kind] for cell in stored) > 0
    assert f"llmcore from {ADDRESS}" in row["added"]
    assert json.loads((tmp_path / f"colab/{FIRST}.json").read_text(encoding="utf-8")) == row


@pytest.mark.slow
def test_a_chapter_that_would_not_run_in_colab_fails(tree, made, tmp_path):
    """A chapter that removes a package, reads the project's folder and shows a figure without a live view."""
    bad = [
        "import subprocess, sys, torch\ndevice = torch.device('cpu')",
        "_ = subprocess.run([sys.executable, '-m', 'pip', 'uninstall', '-q', '-y', 'tiktoken'], check=True)",
        f"open({str(ROOT / 'README.md')!r})",
        "from IPython.display import HTML\nHTML('<figure class=\"llmcore\"></figure>')",
    ]
    bare, files = tree
    cells = [
        nbformat.v4.new_code_cell(source, execution_count=number) for number, source in enumerate(bad, 1)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), files / "chapters/bad.ipynb")
    row, text = colab_run.run("bad", made[0], bare, files, rows=tmp_path)
    assert (row["result"], row["cells"], row["passed"]) == ("failed", 4, 2)
    assert "README.md is of the project's folder, which Colab does not have" in text
    assert f"packages that were there were changed: ['tiktoken=={PACKAGES['tiktoken']}']" in text
    assert "files of packages that were there were changed" in text
    assert "did not enable the custom widget manager" in text
    assert "llmcore was not imported from the environment" in text
    assert "pip did not install llmcore from the repository's address" in text
    assert "cell 3 shows a widget that Colab would not draw" in text


SHOWED = {"pictures": 1, "widgets": 1, "live": 1, "unmarked": 0}
GOOD = {
    "cells": [{"outcome": "passed", "stored": {"pictures": 1, "widgets": 1}, "showed": SHOWED}],
    "said": {"managers": ["__main__", "anywidget._util"], "llmcore_file": "{site}/llmcore/device.py"},
}
BEFORE = {"numpy==2.1.3", "torch==2.11.0"}
AFTER = BEFORE | {f"llmcore @ git+{ADDRESS}@0123", "jaxtyping==0.3.11"}


@pytest.mark.parametrize(
    ("said", "cell", "after", "touched", "complaint"),
    [
        ({}, {}, AFTER, [], None),
        (
            {},
            {},
            AFTER - {"numpy==2.1.3"} | {"numpy==2.4.6"},
            [],
            "packages that were there were changed: ['numpy==2.1.3']",
        ),
        (
            {},
            {},
            AFTER,
            ["numpy/version.py"],
            "files of packages that were there were changed: ['numpy/version.py'] (1 in all)",
        ),
        ({"managers": ["anywidget._util"]}, {}, AFTER, [], "did not enable the custom widget manager"),
        (
            {"llmcore_file": f"{ROOT}/llmcore/device.py"},
            {},
            AFTER,
            [],
            "llmcore was not imported from the environment",
        ),
        (
            {},
            {},
            BEFORE | {"llmcore==0.1.0"},
            [],
            "pip did not install llmcore from the repository's address",
        ),
        ({}, {"pictures": 0}, AFTER, [], "cell 0 stores 1 pictures and 1 widgets and showed"),
        ({}, {"widgets": 0, "live": 0}, AFTER, [], "cell 0 stores 1 pictures and 1 widgets and showed"),
        ({}, {"live": 0}, AFTER, [], "cell 0 shows a widget that Colab would not draw"),
        ({}, {"unmarked": 1}, AFTER, [], "cell 0 shows a widget that Colab would not draw"),
    ],
)
def test_each_thing_that_is_wrong_is_said(tmp_path, said, cell, after, touched, complaint):
    site = tmp_path / "lib/python3.13/site-packages"
    site.mkdir(parents=True)
    told = json.loads(json.dumps(GOOD).replace("{site}", str(site)))
    told["said"] |= said
    told["cells"][0]["showed"] |= cell
    found = complaints(told, BEFORE, after, touched, tmp_path)
    assert len(found) == (complaint is not None)
    assert complaint is None or complaint in found[0]


def test_what_a_cell_shows_is_counted():
    view, html = (
        "application/vnd.jupyter.widget-view+json",
        {"text/html": '<figure class="llmcore" data-widget="matrix">'},
    )
    output = lambda data, metadata=None: nbformat.v4.new_output(
        "display_data", data=data, metadata=metadata or {}
    )
    marked = {view: {"colab": {"custom_widget_manager": {"url": "https://example.org"}}}}
    outputs = [
        output({"image/png": "iVBO", "text/plain": "<Figure>"}),
        output({**html, view: {}}, marked),
        output({**html, view: {}}),
        output(html),
        nbformat.v4.new_output("stream", text="image/png"),
    ]
    assert shown(outputs) == {"pictures": 1, "widgets": 3, "live": 2, "unmarked": 1}


def test_the_packages_are_those_that_the_code_imports():
    """Each package that llmcore or a chapter imports is among Colab's, or llmcore brings it."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "llmcore").rglob("*.py")]
    for name in (path.stem for path in in_order()):
        sources += [
            c.source for c in nbformat.read(ROOT / f"chapters/{name}.ipynb", 4).cells if c.cell_type == "code"
        ]
    imported: set[str] = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add((node.module or "").split(".")[0])
    imported -= set(sys.stdlib_module_names) | {"llmcore", "google"}
    assert {"torch", "IPython", "matplotlib", "safetensors"} <= imported
    homes = importlib.metadata.packages_distributions()
    brought = [Requirement(r) for r in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["real"]]
    there = PACKAGES.keys() | {canonicalize_name(r.name) for r in brought}
    for module in imported - {"triton"}:  # triton comes with a torch for CUDA, and is imported only there
        assert {canonicalize_name(name) for name in homes.get(module, [module])} & there, (
            f"{module}: add it to book/colab/packages.txt"
        )
    for need in brought:  # what Colab has is new enough: pip need not touch it
        version = PACKAGES.get(canonicalize_name(need.name))
        assert version is None or version in need.specifier, f"{need} would change what Colab has"


def test_a_snapshot_holds_the_tree_as_it_stands_and_leaves_the_repository_alone(tmp_path):
    project, folder = tmp_path / "project", tmp_path / "snapshot"
    project.mkdir()
    folder.mkdir()
    (project / "kept.txt").write_text("committed\n", encoding="utf-8")
    (project / ".gitignore").write_text("*.log\n", encoding="utf-8")
    git = lambda *words, **more: (
        subprocess.run(
            ["git", *words], cwd=project, check=True, capture_output=True, text=True, **more
        ).stdout
    )
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    (project / "kept.txt").write_text("changed\n", encoding="utf-8")
    (project / "new.txt").write_text("new\n", encoding="utf-8")
    (project / "ignored.log").write_text("noise\n", encoding="utf-8")
    state = lambda: {str(p): p.read_bytes() for p in (project / ".git").rglob("*") if p.is_file()}
    before = state()
    bare, files = snapshot(folder, project)
    assert state() == before

    # the address is a stranger's: git asks the snapshot in its place, as pip does for the first cell
    setting = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{bare.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": ADDRESS,
    }
    words = ["clone", "-q", "--filter=blob:none", "--branch", RELEASE, ADDRESS, str(tmp_path / "clone")]
    git("-c", "advice.detachedHead=false", *words, env=os.environ | setting)
    for there in (tmp_path / "clone", files):
        assert {p.name for p in there.iterdir()} - {".git"} == {"kept.txt", "new.txt", ".gitignore"}
        assert (there / "kept.txt").read_text(encoding="utf-8") == "changed\n"


def test_the_guard_refuses_the_folder_and_nothing_else(tmp_path):
    shutil.copy(LAID / "guard.py", tmp_path / "_guard.py")
    secret, open_ = tmp_path / "project/llmcore", tmp_path / "project/_build/chapter"
    for folder in (secret, open_):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (tmp_path / "_guard.json").write_text(
        json.dumps({"forbidden": f"{tmp_path / 'project'}/", "allowed": f"{open_}/"}), encoding="utf-8"
    )

    def tried(code: str) -> str:
        words = [sys.executable, "-c", f"import os, pathlib, _guard\n{code}"]
        return subprocess.run(
            words,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
        ).stderr

    for code in (
        f"open({str(secret / 'file')!r})",
        f"pathlib.Path({str(secret / 'file')!r}).read_text()",
        f"os.listdir({str(secret)!r})",
    ):
        assert "PermissionError" in tried(code)
    assert "PermissionError" in tried("open('project/llmcore/file')"), (
        "a path from the working folder is the same path"
    )
    assert tried(f"open({str(open_ / 'file')!r})\nos.listdir({str(open_)!r})\nopen('_guard.py')") == ""


def interpreter(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n" if version else "#!/bin/sh\nexit 127\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_colabs_python_is_looked_for_on_the_path_and_below_pyenv(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    interpreter(tmp_path / "bin/python3.13", "")  # pyenv's shim of a version that is not switched on
    older = interpreter(tmp_path / "bin/python3.12", "3.12.1")
    colabs = interpreter(tmp_path / "pyenv/versions/3.13.0/bin/python3.13", "3.13.0")
    assert list(interpreters())[:2] == [str(colabs), str(older)]
    interpreter(tmp_path / "bin/python3.13", "3.13.9")
    assert next(interpreters()) == str(tmp_path / "bin/python3.13")


def test_a_python_that_will_not_do_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCORE_COLAB_PYTHON", str(interpreter(tmp_path / "python", "")))
    with pytest.raises(ValueError, match="starts no Python: give its path"):
        colab_run.base(tmp_path / "bases")
    monkeypatch.setenv("LLMCORE_COLAB_PYTHON", "no-such-python")
    with pytest.raises(ValueError, match="starts no Python: give its path"):
        colab_run.base(tmp_path / "bases")
    monkeypatch.setenv("LLMCORE_COLAB_PYTHON", "")
    monkeypatch.setattr(colab_run, "interpreters", lambda: iter(()))
    with pytest.raises(ValueError, match="none is here"):
        colab_run.base(tmp_path / "bases")


def test_where_torch_has_no_build_for_a_python_the_next_one_is_taken(tmp_path, monkeypatch):
    first, second = (
        interpreter(tmp_path / "python3.13", "3.13.0"),
        interpreter(tmp_path / "python3.12", "3.12.1"),
    )
    monkeypatch.setattr(colab_run, "interpreters", lambda: iter([str(first), str(second)]))
    monkeypatch.delenv("LLMCORE_COLAB_PYTHON", raising=False)
    monkeypatch.setenv("LLMCORE_COLAB_TORCH", "2.13.0+cpu")

    def make(python: str, torch: str, folder: Path) -> None:
        if python == str(first):
            raise colab_run.NoTorch
        (folder / "lib/python3.12/site-packages/numpy-2.1.3.dist-info").mkdir(parents=True)
        (folder / "lib/python3.12/site-packages/numpy-2.1.3.dist-info/METADATA").write_text(
            "Name: numpy\nVersion: 2.1.3\n"
        )

    monkeypatch.setattr(colab_run, "make", make)
    made = colab_run.base(tmp_path / "bases")
    assert (made.python, made.refused) == (
        "3.12.1",
        ("torch 2.13.0+cpu has no build for Python 3.13.0 here",),
    )
    assert made.differs()["Python"] == [colab_run.COLAB_PYTHON, "3.12.1"]
    assert made.differs()["torch"] == [PACKAGES["torch"], "none"]
    assert "numpy" not in made.differs()
    assert colab_run.base(tmp_path / "bases") == made, "it is made once"
    monkeypatch.setattr(colab_run, "interpreters", lambda: iter([str(first)]))
    with pytest.raises(ValueError, match="has no build for Python 3.13.0 here"):
        colab_run.base(tmp_path / "bases")


def test_of_two_processes_that_make_the_environment_the_first_to_be_ready_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCORE_COLAB_PYTHON", str(interpreter(tmp_path / "python3.12", "3.12.1")))
    monkeypatch.setenv("LLMCORE_COLAB_TORCH", "2.13.0+cpu")
    makers = []

    def make(python: str, torch: str, folder: Path) -> None:
        makers.append(len(makers))
        if makers == [0]:
            colab_run.base(tmp_path / "bases")  # the other process begins later and ends sooner
        folder.mkdir()
        (folder / "made").touch()

    monkeypatch.setattr(colab_run, "make", make)
    made = colab_run.base(tmp_path / "bases")
    assert makers == [0, 1]
    assert [p.name for p in (tmp_path / "bases").iterdir()] == [made.folder.name], (
        "what the slower one made is thrown away"
    )


def test_the_stand_in_has_what_the_first_cell_calls():
    names = {node.attr for node in ast.walk(ast.parse(COLAB_CELL)) if isinstance(node, ast.Attribute)}
    assert {"colab", "output", "enable_custom_widget_manager"} <= names
    functions = ast.parse(
        (LAID / "stand_in/google/colab/output/_widgets.py").read_text(encoding="utf-8")
    ).body
    assert "enable_custom_widget_manager" in {f.name for f in functions if isinstance(f, ast.FunctionDef)}


def test_a_chapter_that_is_not_there_is_said(capsys):
    assert colab_run.main(["1-2-embedding", "no-such-chapter"]) == 2
    assert "CHAPTERS names ['no-such-chapter'], which _toc.yml does not list" in capsys.readouterr().out


def test_the_page_says_how_the_run_differs_from_colab(tmp_path):
    row = {
        "chapter": "one", "of": "a", "result": "passed", "cells": 9, "passed": 9, "compared": 7,
        "asserts": 12, "seconds": 1.5, "system": "Linux x86_64", "when": "2026-11-25 10:00", "device": "cpu",
        "on": "AVX2", "threads": 2, "torch": "2.13.0+cpu", "numpy": "2.1.3", "llmcore": "0.1.0",
        "python": "3.11.7", "pictures": 3, "widgets": 4,
        "differs": {"Python": ["3.13.15", "3.11.7"], "torch": ["2.11.0", "2.13.0+cpu"]},
        "why": ["no build for 3.13"], "added": ["jedi==0.20.1", f"llmcore from {ADDRESS}"],
    }  # fmt: skip
    page = markdown(
        "Colab's environment", {"one": row, "two": {**row, "chapter": "two"}}, {"one": "a", "two": "a"}
    )
    assert (
        "unlike Colab: Python 3.11.7 (Colab: 3.13.15), torch 2.13.0+cpu (Colab: 2.11.0); "
        "no build for 3.13 (chapters: 2)" in page
    )
    assert f"installed by the chapter: `jedi==0.20.1`, `llmcore from {ADDRESS}` (chapters: 2)" in page
    assert "8 widgets came with a live view and the table beside it, 6 figures were drawn" in page
    assert "| [two](two) | passed | 9 | 7 | 12 | 1.5 | 2026-11-25 10:00 |" in page


def test_make_colab_keeps_its_own_rows_only(tmp_path):
    (tmp_path / "chapters").mkdir()
    (tmp_path / "chapters/one.ipynb").touch()
    for report in ("colab", "cpu"):
        (tmp_path / "rows" / report).mkdir(parents=True)
        (tmp_path / "rows" / report / "one.json").write_text('{"chapter": "one"}', encoding="utf-8")
    merge(tmp_path / "rows", tmp_path / "kept", tmp_path / "chapters", names=("colab",))
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["colab.json"]
