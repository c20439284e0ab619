"""Hashes of all that a chapter's stored outputs rest on; a chapter is stale where one of them changed.

The parts are the chapter's code, every module of llmcore that it imports, directly or not, the data files of
those packages, and the pinned versions of the packages that this code imports. No output rests on a comment,
a docstring or a chapter's prose, nor on the widgets' scripts and styles: only a widget's table and its state
are stored.

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
UNSTORED = (".js", ".css")  # no stored output contains them; the tests in a browser check them
Parts = dict[str, str]


def hashed(*texts: str | bytes) -> str:
    """16 hexadecimal digits for a sequence of texts."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode() if isinstance(text, str) else text
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def canonical(node: Any) -> str:
    """The code of a syntax tree without comments, docstrings and layout, the same in every Python.

    >>> canonical(ast.parse("x = 1  # one")) == canonical(ast.parse("x=(1)"))
    True
    """
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)
    fields = dict(ast.iter_fields(node))
    documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    if documented and ast.get_docstring(node, False) is not None:
        fields["body"] = fields["body"][1:]
    if isinstance(node, ast.JoinedStr):  # Python 3.12.1 leaves empty texts in an f-string
        fields["values"] = [v for v in node.values if not (isinstance(v, ast.Constant) and v.value == "")]
    # Newer versions of Python have more fields, which are empty where the code uses nothing new.
    full = {name: value for name, value in fields.items() if value is not None and value != []}
    return f"{type(node).__name__}({','.join(f'{k}={canonical(v)}' for k, v in full.items())})"


def imported(tree: ast.AST, here: str, known: dict[str, Path]) -> set[str]:
    """The modules of `known` that the code imports, anywhere in it, or names in a string.

    here: the module whose code it is, "" for a chapter.
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
            # the name may be passed to importlib, or in a chapter to python -m
            names = [node.value] if here else [node.value, f"{node.value}.__main__"]
        for name in names:
            words = name.split(".")
            found |= {".".join(words[:n]) for n in range(1, len(words) + 1)}  # packages run before modules
    return found & set(known)


class Library:
    """The modules below a package's folder: their imports, the hashes of their code and of the data."""

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
        """A hash for each folder of data files of this package, without those of packages below it."""
        out: dict[str, list[str | bytes]] = {}
        home = self.known[package].parent
        for path in sorted(home.rglob("*")):
            if not path.is_file() or path.suffix in (".py", ".pyc", *UNSTORED):
                continue
            owner = next(p for p in path.parents if (p / "__init__.py").exists())
            if owner == home and not any(part.startswith(".") for part in path.relative_to(home).parts):
                folder = path.parent.relative_to(self.folder.parent).as_posix()
                out.setdefault(f"{folder}/*", []).extend([path.name, path.read_bytes()])
        return {name: hashed(*texts) for name, texts in out.items()}

    def parts(self, names: set[str]) -> Parts:
        """The hashes of these modules, of all that they import, and of their packages' data."""
        found = self.closure(names)
        out = {name: self.code(name) for name in found}
        for name in found:
            if self.known[name].name == "__init__.py":
                out |= self.data(name)
        return out


def packages(trees: Iterable[ast.AST]) -> set[str]:
    """The names of the packages that the code imports, anywhere in it, in lower case.

    >>> code = "import torch.nn as nn, IPython; from numpy import ones; from . import x"
    >>> sorted(packages([ast.parse(code)]))
    ['ipython', 'numpy', 'torch']
    """
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    names += [node.module for node in froms if node.module]
    return {name.split(".")[0].lower() for name in names}


def pins(text: str, used: set[str]) -> Parts:
    """The versions that a constraints file pins, of the packages that are used.

    >>> pins("torch==2.13.0  # a comment\\nruff==1.0\\n", {"torch", "os"})
    {'torch, in constraints.txt': '2.13.0'}
    """
    lines = [line.split("#")[0].strip().split("==") for line in text.splitlines() if "==" in line]
    is_used = lambda name: name.lower().replace("-", "_") in used
    return {f"{name}, in {PINS}": version for name, version in lines if is_used(name)}


def parts(chapter: Path, root: Path = ROOT, library: Library | None = None) -> Parts:
    """What the chapter's outputs rest on now. library: llmcore, parsed once for many chapters."""
    library = library or Library(root / "llmcore")
    code = [c.source for c in nbformat.read(chapter, as_version=4).cells if c.cell_type == "code"]
    # The Colab cell acts only in Colab, and each release rewrites it.
    code = [source for source in code if source != COLAB_CELL]
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
    """One hash of all that nbval's result depends on.

    These are the code and what it rests on, the stored outputs, and the tags, which say what is compared.
    """
    code = [c for c in nbformat.read(chapter, as_version=4).cells if c.cell_type == "code"]
    compared = [f"{sorted(c.metadata.get('tags', []))} {c.outputs}" for c in code]
    return hashed(*compared, *parts(chapter, chapter.parents[1], library).values())


def stored(chapter: Path) -> Parts:
    """The parts as they were when the chapter's outputs were stored; empty if that was never recorded."""
    return dict(nbformat.read(chapter, as_version=4).metadata.get("llmcore", {}).get("fresh", {}))


def changes(then: Parts, now: Parts) -> list[str]:
    """The differences in words; empty for a fresh chapter."""
    if not then:
        return ["it was never marked as fresh"]
    words = {(True, True): "changed", (False, True): "is new here", (True, False): "is no longer used"}
    different = [name for name in sorted(then | now) if then.get(name) != now.get(name)]
    return [f"{name} {words[name in then, name in now]}" for name in different]


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
