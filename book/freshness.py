"""What a chapter's stored outputs rest on, as one hash for each part; a chapter is stale where a part differs
from what was run.

The parts are the chapter's code, every module of llmcore that it imports, directly or not, the data files of
those packages, and the pinned versions of the packages that this code imports. No output rests on a comment,
a docstring or a chapter's prose, nor on the widgets' scripts and styles: what is stored of a widget is a
table and its state.

python -m book stale   says which chapters are stale and why (exit status 1 if any is)
"""

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat

from book.address import COLAB_CELL
from book.places import ROOT, notebooks

PINS = "constraints.txt"
CELLS = "the chapter's code"
UNSTORED = (".js", ".css")  # the tests in a browser are for these
Parts = dict[str, str]


def hashed(*texts: str | bytes) -> str:
    """16 hexadecimal digits for a sequence of texts."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def canonical(node: Any) -> str:
    """The code of a syntax tree without comments, docstrings, layout and empty fields: the same text in every
    version of Python.

    >>> canonical(ast.parse("x = 1  # one")) == canonical(ast.parse("x=(1)"))
    True
    """
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = dict(ast.iter_fields(node))
    if (
        isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, False) is not None
    ):
        fields["body"] = fields["body"][1:]
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 leaves empty texts in an f-string
        fields["values"] = [v for v in node.values if not (isinstance(v, ast.Constant) and v.value == "")]
    # a version of Python adds fields, and leaves them empty where the code does not use what is new
    return f"{type(node).__name__}({','.join(f'{k}={canonical(v)}' for k, v in fields.items() if v is not None and v != [])})"


def imported(tree: ast.AST, here: str, known: dict[str, Path]) -> set[str]:
    """The modules of `known` that the code of module `here` ("" for a chapter) imports, anywhere in it, or
    names in a string.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                is_package = here in known and known[here].name == "__init__.py"
                above = here.split(".")
                above = above[: len(above) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            names = [base, *(f"{base}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Constant) and node.value in known:
            names = [
                node.value,
                *([] if here else [f"{node.value}.__main__"]),
            ]  # importlib; and a chapter may run python -m llmcore
        for name in names:
            words = name.split(".")
            found |= {".".join(words[:n]) for n in range(1, len(words) + 1)} & set(
                known
            )  # a package runs before its modules
    return found


class Library:
    """The modules below a package's folder: what each imports, the hash of its code, the hash of a package's
    data.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.known: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.py")):
            words = [folder.name, *path.relative_to(folder).with_suffix("").parts]
            self.known[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
        self.tree = functools.cache(lambda name: ast.parse(self.known[name].read_bytes()))
        self.code = functools.cache(lambda name: hashed(canonical(self.tree(name))))
        self.imports = functools.cache(lambda name: imported(self.tree(name), name, self.known))

    def closure(self, names: set[str]) -> set[str]:
        """The modules themselves and all that they import, directly or not."""
        done: set[str] = set()
        while names:
            done |= names
            names = set().union(*map(self.imports, names)) - done
        return done

    def data(self, package: str) -> Parts:
        """A hash for each folder with files that are not Python and belong to this package and not to one
        below it.
        """
        out: dict[str, list[str | bytes]] = {}
        home = self.known[package].parent
        for path in sorted(
            p for p in home.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", *UNSTORED)
        ):
            owner = next(p for p in path.parents if (p / "__init__.py").exists())
            if owner == home and not any(part.startswith(".") for part in path.relative_to(home).parts):
                folder = path.parent.relative_to(self.folder.parent).as_posix()
                out.setdefault(f"{folder}/*", []).extend([path.name, path.read_bytes()])
        return {name: hashed(*texts) for name, texts in out.items()}

    def parts(self, names: set[str]) -> Parts:
        found = self.closure(names)
        out = {name: self.code(name) for name in found}
        for name in found:
            if self.known[name].name == "__init__.py":
                out |= self.data(name)
        return out


def packages(trees: Iterable[ast.AST]) -> set[str]:
    """The names that the code imports, anywhere in it: of an import its first word, in small letters.

    >>> sorted(packages([ast.parse("import torch.nn as nn, IPython; from numpy import ones; from . import x")]))
    ['ipython', 'numpy', 'torch']
    """
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]
    return {name.split(".")[0].lower() for name in names}


def pins(text: str, used: set[str]) -> Parts:
    """Of a constraints file, the versions of the packages that are used.

    >>> pins("torch==2.13.0  # a comment\\nruff==1.0\\n", {"torch", "os"})
    {'torch, in constraints.txt': '2.13.0'}
    """
    lines = [line.split("#")[0].strip().split("==") for line in text.splitlines() if "==" in line]
    return {
        f"{name}, in {PINS}": version for name, version in lines if name.lower().replace("-", "_") in used
    }


def parts(chapter: Path, root: Path = ROOT, library: Library | None = None) -> Parts:
    """What the chapter's outputs rest on now. library: llmcore, where the caller asks for many chapters."""
    library = library or Library(root / "llmcore")
    code = [c.source for c in nbformat.read(chapter, as_version=4).cells if c.cell_type == "code"]
    code = [
        source for source in code if source != COLAB_CELL
    ]  # it acts in Colab only, and a release or another address rewrites it
    trees = [ast.parse(source) for source in code]
    names = set().union(*(imported(tree, "", library.known) for tree in trees))
    used = packages([*trees, *map(library.tree, library.closure(names))])
    now = {
        CELLS: hashed(*code),
        **pins((root / PINS).read_text(encoding="utf-8"), used),
        **library.parts(names),
    }
    return dict(sorted(now.items()))


def digest(chapter: Path, library: Library | None = None) -> str:
    """One hash for what a run of nbval is about: the code, the stored outputs, which of them are compared,
    and all they rest on.
    """
    code = [c for c in nbformat.read(chapter, as_version=4).cells if c.cell_type == "code"]
    compared = [f"{sorted(c.metadata.get('tags', []))} {c.outputs}" for c in code]
    return hashed(*compared, *parts(chapter, chapter.parents[1], library).values())


def stored(chapter: Path) -> Parts:
    """What the chapter's outputs rested on when they were stored; empty where that was never written."""
    return dict(nbformat.read(chapter, as_version=4).metadata.get("llmcore", {}).get("fresh", {}))


def changes(then: Parts, now: Parts) -> list[str]:
    """What differs, in words; empty for a fresh chapter."""
    if not then:
        return ["it was never marked as fresh"]
    words = {(True, True): "changed", (False, True): "is new here", (True, False): "is no longer used"}
    return [
        f"{name} {words[name in then, name in now]}"
        for name in sorted(then | now)
        if then.get(name) != now.get(name)
    ]


def stale(root: Path = ROOT) -> dict[Path, list[str]]:
    """The stale chapters, and what changed for each."""
    library = Library(root / "llmcore")
    found = {path: changes(stored(path), parts(path, root, library)) for path in notebooks(root)}
    return {path: why for path, why in found.items() if why}


def main() -> int:
    found = stale()
    for path, why in found.items():
        print(f"{path.relative_to(ROOT)}: {', '.join(why)}")
    return int(bool(found))
