"""A change makes exactly those chapters stale whose outputs could move, and says what changed."""

import ast
import json
from pathlib import Path

import nbformat
import pytest
from test_notebooks import chapters

from book import refresh
from book.address import COLAB_CELL
from book.freshness import (
    CELLS,
    PINS,
    ROOT,
    Library,
    canonical,
    changes,
    hashed,
    imported,
    parts,
    pins,
    stale,
    stored,
)

# `make check` leaves this out: the library can be worked on before the book is run again
LIBRARY = Library(ROOT / "llmcore")


@pytest.mark.slow
@chapters
def test_a_chapter_is_fresh(path):
    why = changes(stored(path), parts(path, library=LIBRARY))
    assert not why, (
        f"{path.name} is stale: {', '.join(why)}. make refresh runs the stale chapters; "
        "make bless only compares them"
    )


MODULES = {
    "__init__.py": '"""A library."""\n',
    "sizes.py": '"""Sizes."""\nWIDTH = 4  # one\n',
    "layer.py": "from llmcore.sizes import WIDTH\n\n\ndef layer():\n    '''Twice.'''\n    return 2 * WIDTH\n",
    "model.py": "def model():\n    from llmcore import layer\n\n    return layer.layer() + 1\n",
    "texts/__init__.py": "from importlib import resources\n\nfrom .reader import read\n",
    "texts/reader.py": "def read():\n"
    "    return __import__('pathlib').Path(__file__).with_name('a.txt').read_text()\n",
    "texts/a.txt": "a fox\n",
    "texts/more/b.json": "1\n",
    "texts/more/c.js": "1;\n",
    "texts/more/d.css": "a {}\n",
    "heavy.py": "import importlib\n\nFAST = importlib.import_module('llmcore.kernels')\n",
    "kernels.py": "SPEED = 3\n",
    "__main__.py": "from llmcore.model import model\n\nprint(model())\n",
}
CHAPTERS = {
    "size": "from llmcore.sizes import WIDTH\nWIDTH",
    "model": "import llmcore.model\nllmcore.model.model()",
    "texts": "from llmcore.texts import read\nprint(read())",
    "heavy": "from llmcore import heavy\nheavy.FAST.SPEED",
    "command": "import subprocess\nsubprocess.run(['python', '-m', 'llmcore'])",
    "alone": "1 + 1",
}
FIRST = "import sys\nimport torch\nsys.path.insert(0, '..')\ndevice = torch.device('cpu')"


@pytest.fixture
def book(tmp_path) -> Path:
    """A library of a few lines and a chapter for each way to use it, all marked as fresh."""
    for name, text in MODULES.items():
        path = tmp_path / "llmcore" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / PINS).write_text("# pins\ntorch==2.13.0\nnumpy==2.4.6\n", encoding="utf-8")
    (tmp_path / "chapters").mkdir()
    for name, code in CHAPTERS.items():
        cells = [
            nbformat.v4.new_markdown_cell("# Why?"),
            nbformat.v4.new_code_cell(FIRST),
            nbformat.v4.new_code_cell(code),
        ]
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata=dict(refresh.KERNEL)),
            tmp_path / f"chapters/{name}.ipynb",
        )
    assert {p.stem for p in stale(tmp_path)} == set(CHAPTERS)  # what was never run is stale
    for path in (tmp_path / "chapters").glob("*.ipynb"):
        mark(path, tmp_path)
    return tmp_path


def mark(path: Path, root: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["llmcore"] = {"fresh": parts(path, root)}
    nbformat.write(notebook, path)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def found(book: Path) -> dict[str, list[str]]:
    return {path.stem: why for path, why in stale(book).items()}


@pytest.mark.parametrize(
    ("file", "old", "new", "who", "what"),
    [
        ("sizes.py", "WIDTH = 4", "WIDTH = 5", {"size", "model", "command"}, "llmcore.sizes changed"),
        ("layer.py", "2 *", "3 *", {"model", "command"}, "llmcore.layer changed"),
        ("model.py", "+ 1", "+ 2", {"model", "command"}, "llmcore.model changed"),
        ("__main__.py", "print(model())", "print(1)", {"command"}, "llmcore.__main__ changed"),
        ("kernels.py", "3", "4", {"heavy"}, "llmcore.kernels changed"),
        ("texts/reader.py", "a.txt", "b.txt", {"texts"}, "llmcore.texts.reader changed"),
        ("texts/a.txt", "fox", "crow", {"texts"}, "llmcore/texts/* changed"),
        ("texts/more/b.json", "1", "2", {"texts"}, "llmcore/texts/more/* changed"),
        ("__init__.py", '"""\n', '"""\nVERSION = 1\n', set(CHAPTERS) - {"alone"}, "llmcore changed"),
    ],
)
def test_a_change_in_the_library_reaches_exactly_the_chapters_that_import_it(book, file, old, new, who, what):
    edit(book / "llmcore" / file, old, new)
    assert found(book) == {name: [what] for name in who}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("__init__.py", "A library", "Our library"),
        ("sizes.py", '"""Sizes."""\n', ""),
        ("sizes.py", "# one", "# two"),
        ("sizes.py", "WIDTH = 4", "WIDTH = (\n    4\n)"),
        ("layer.py", "'''Twice.'''", "'''Two times.'''"),
        ("texts/more/c.js", "1", "2"),
        ("texts/more/d.css", "{}", "{color: red}"),
    ],
)
def test_a_comment_a_docstring_the_layout_and_scripts_make_nothing_stale(book, file, old, new):
    edit(book / "llmcore" / file, old, new)
    assert found(book) == {}


def test_a_pin_counts_where_its_package_is_imported_and_their_order_nowhere(book):
    edit(book / "llmcore/kernels.py", "SPEED = 3", "import numpy\n\nSPEED = 3")
    assert found(book) == {"heavy": ["llmcore.kernels changed", f"numpy, in {PINS} is new here"]}
    edit(book / "llmcore/kernels.py", "import numpy\n\n", "")
    (book / PINS).write_text("numpy==2.5.0\ntorch==2.13.0  # a comment\nruff==1.0\n", encoding="utf-8")
    assert found(book) == {}
    (book / PINS).write_text("numpy==2.4.6\ntorch==2.14.0\n", encoding="utf-8")
    assert found(book) == {name: [f"torch, in {PINS} changed"] for name in CHAPTERS}


def test_the_code_of_a_chapter_counts_and_its_prose_does_not(book):
    edit(book / "chapters/alone.ipynb", "# Why?", "# How?")
    assert found(book) == {}
    edit(book / "chapters/alone.ipynb", "1 + 1", "1 + 2")
    assert found(book) == {"alone": [f"{CELLS} changed"]}


def test_the_colab_cell_is_no_part(book):
    path = book / "chapters/alone.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(COLAB_CELL))
    nbformat.write(notebook, path)
    assert found(book) == {}
    notebook.cells[0].source += "\nprint(1)"
    nbformat.write(notebook, path)
    assert found(book) == {"alone": [f"{CELLS} changed"]}


def test_a_new_import_and_one_that_is_gone_are_named(book):
    edit(book / "llmcore/model.py", "from llmcore import layer", "from llmcore import kernels as layer")
    assert found(book)["model"] == [
        "llmcore.kernels is new here",
        "llmcore.layer is no longer used",
        "llmcore.model changed",
        "llmcore.sizes is no longer used",
    ]


def test_the_hash_of_code_is_the_same_in_every_version_of_python():
    """The hash of code is the same in every version of Python, whose syntax trees may differ."""
    code = (
        '"""Doc."""\nimport os.path as p\nfrom . import q\nX: dict[str, int] = {"é": 1, **{}}\n'
        "@p.d\nclass A(B, k=1):\n    '''Doc.'''\n    async def f(self, a, /, b=1.5, *c, d=None, "
        "**e) -> 'str':\n"
        '        """Doc."""\n        return f"{a!r:>{b}} {{}} {self.x:.3f}" "tail" + rb"\\n".decode()\n'
        "try:\n    y = [i async for i in z if (n := i)][1:, ...]\nexcept* (E, "
        "F) as g:\n    raise g from None\n"
        "match X:\n    case {'a': [1, *_], **r} | A(x=-1j) if r: pass\n    case _: lambda *, k: (yield)\n"
    )
    assert hashed(canonical(ast.parse(code))) == "8757e8951bf2a20c"


def test_what_an_import_reaches():
    package, module = Path("__init__.py"), Path("m.py")
    known = {"a": package, "a.b": package, "a.b.c": module, "a.b.d": module, "a.__main__": module}
    reach = lambda code, here="": imported(ast.parse(code), here, known)
    assert reach("import a.b.c as x") == {"a", "a.b", "a.b.c"}
    assert reach("from a.b import d, e") == {"a", "a.b", "a.b.d"}
    assert reach("from a import *") == {"a"}
    assert reach("from . import d", "a.b.c") == {"a", "a.b", "a.b.d"}
    assert reach("from . import d", "a.b") == {"a", "a.b", "a.b.d"}
    assert reach("from .. import x", "a.b.c") == {"a"}
    assert reach("from ..b.c import x", "a.b.d") == {"a", "a.b", "a.b.c"}
    assert reach("import numpy, abc") == set()
    assert reach("run('a')") == {"a", "a.__main__"}  # a chapter: python -m a
    assert reach("files('a.b')", "a") == {"a", "a.b"}


@pytest.mark.slow
def test_what_really_is_imported_is_in_the_closure():
    """An oracle: Python itself says which modules of llmcore are loaded after an import."""
    import subprocess
    import sys

    for name in ("trainer", "accounting", "tokenizer", "widgets"):
        code = f"import llmcore.{name}, sys; print(*[m for m in sys.modules if m.split('.')[0] == 'llmcore'])"
        loaded = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        assert set(loaded) <= LIBRARY.closure({"llmcore", f"llmcore.{name}"}), name


def test_data_files_go_with_their_package():
    assert set(LIBRARY.data("llmcore.corpus")) == {"llmcore/corpus/*"}
    assert LIBRARY.data("llmcore.widgets") == {}  # its scripts and styles
    assert set(LIBRARY.data("llmcore")) == {"llmcore/*"}


def test_pins_are_of_packages():
    both = {"a", "b_c", "d"}
    assert (
        pins("a==1\n\n# x\nB-c==2", both)
        == pins("B-c==2 # y\na==1\n", both)
        == {f"a, in {PINS}": "1", f"B-c, in {PINS}": "2"}
    )
    assert pins("a==1\nb==3", {"b"}) == {f"b, in {PINS}": "3"}


@pytest.mark.slow
def test_refresh_runs_the_stale_and_bless_compares_them(book, capsys):
    """A changed constant: refresh stores new outputs; bless accepts only a chapter that shows the same."""
    assert refresh.main([], root=book) == 0
    assert capsys.readouterr().out == "every chapter is fresh\n"
    size, model = book / "chapters/size.ipynb", book / "chapters/model.ipynb"
    assert refresh.main(["size", "chapters/model.ipynb"], root=book) == 0
    shows = lambda path: nbformat.read(path, as_version=4).cells[2].outputs[0].data["text/plain"]
    assert (shows(size), shows(model)) == ("4", "9")

    edit(book / "llmcore/sizes.py", "WIDTH = 4", "WIDTH = 5")
    edit(
        book / "llmcore/layer.py", "2 * WIDTH", "WIDTH + 3"
    )  # the model's output is what it was, through other numbers
    (book / "chapters/command.ipynb").unlink()
    before = {path: path.read_text(encoding="utf-8") for path in (size, model)}
    assert refresh.main([], only_bless=True, root=book) == 1
    told = capsys.readouterr().out
    assert "NOT fresh: chapters/size.ipynb" in told
    assert "fresh: chapters/model.ipynb (1 cells compared" in told
    assert found(book) == {"size": ["llmcore.sizes changed"]}
    assert size.read_text(encoding="utf-8") == before[size]
    then, now = json.loads(before[model]), json.loads(model.read_text(encoding="utf-8"))
    assert then.pop("metadata") != now.pop("metadata")
    assert json.dumps(then) == json.dumps(now)  # cells and outputs as they were, in their order

    assert refresh.main([], root=book) == 0
    assert capsys.readouterr().out == "refreshed chapters/size.ipynb\n"
    assert shows(size) == "5"
    assert found(book) == {}


def test_what_refresh_does_not_know_is_said(book, capsys):
    assert refresh.main([str(book / "chapters/none.ipynb")], root=book) == 2
    assert "no such chapter" in capsys.readouterr().out


def test_a_change_during_the_run_is_noticed(book):
    path = book / "chapters/model.ipynb"
    before = parts(path, book)
    refresh.unchanged(path, book, before)
    edit(book / "llmcore/layer.py", "2 *", "3 *")
    with pytest.raises(RuntimeError, match="changed while it ran"):
        refresh.unchanged(path, book, before)
