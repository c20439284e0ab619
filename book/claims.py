"""Claims: planted falsehoods that a chapter's asserts must refuse.

chapters/claims/CHAPTER.toml lists them. Each says in words what is false, names a text that stands once in
the chapter's code, and gives the text to put in its place:

    [[falsehood]]
    says = "the mean of the surprises is their sum"
    find = "surprise.mean()"
    put = "surprise.sum()"

The chapter runs once, on one thread. Before a cell that a falsehood changes, the process forks: the child
runs the changed cell and those after it until an assert fails. A falsehood that no assert refuses, or that
ends in another error, fails the check: the assert is tightened, or the sentence weakened, or the falsehood
put better. Asserts of the chapter's own cells that were never reached fail it, too.

python -m book claims [CHAPTER ...]   all chapters that have such a file, or those named
"""

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import nbformat

from book.places import ROOT, chapters_named, in_order

FOLDER = "claims"  # below chapters/
SECONDS = 300  # for one falsehood; a change that makes a cell run for ever ends here
AT_LEAST = 10  # falsehoods of a chapter
REACHED = "_an_assert_was_reached"


@dataclass(frozen=True)
class Falsehood:
    """`says` in words what is false once `put` stands for `find`."""

    says: str
    find: str
    put: str


@dataclass(frozen=True)
class Verdict:
    """What became of a falsehood: "refused", "passed", "error" or "too long", and where."""

    says: str
    outcome: str
    cell: int
    detail: str = ""


def falsehoods(chapter: Path) -> list[Falsehood]:
    """Those of a chapter, none if it has no file. ValueError for a file that does not fit the chapter."""
    path = chapter.parent / FOLDER / f"{chapter.stem}.toml"
    if not path.exists():
        return []
    found = [Falsehood(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["falsehood"]]
    sources = code(chapter)
    for one in found:
        times, where = sum(source.count(one.find) for source in sources), f"{path.name}, {one.says!r}"
        if times != 1:
            raise ValueError(f"{where}: {one.find!r} stands {times} times in the code, not once")
        if one.put == one.find:
            raise ValueError(f"{where}: changes nothing")
    for what in ("says", "find"):
        values = [getattr(one, what) + (one.put if what == "find" else "") for one in found]
        if len(set(values)) != len(values):
            raise ValueError(f"{path.name}: two falsehoods are the same")
    return found


def code(chapter: Path) -> list[str]:
    """The sources of the code cells, in order."""
    cells = nbformat.read(chapter, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


class Marked(ast.NodeTransformer):
    """Notes each assert of a cell, and each that runs. Those in functions may run elsewhere."""

    def __init__(self) -> None:
        self.there: set[int] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return node

    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        self.there.add(node.lineno)
        call = ast.Call(ast.Name(REACHED, ast.Load()), [ast.Constant(node.lineno)], [])
        return [ast.fix_missing_locations(ast.copy_location(ast.Expr(call), node)), node]


class Chapter:
    """A chapter's cells in a shell of their own, and the falsehoods planted in them."""

    def __init__(self, path: Path):
        from IPython.core.interactiveshell import InteractiveShell

        self.sources, self.planted = code(path), falsehoods(path)
        self.shell = InteractiveShell.instance()
        self.seen: set[int] = set()
        self.shell.user_ns[REACHED] = self.seen.add

    def run(self, source: str) -> BaseException | None:
        """Run one cell; the error that it ended in, if any."""
        out, err = contextlib.redirect_stdout, contextlib.redirect_stderr
        with open(os.devnull, "w") as nowhere, out(nowhere), err(nowhere):
            result = self.shell.run_cell(source, store_history=False)
        return result.error_before_exec or result.error_in_exec

    def try_one(self, i: int, one: Falsehood) -> Verdict:
        """In this process: run from cell i on with the falsehood in it, until something refuses it."""
        for k, source in enumerate(self.sources[i:], i):
            error = self.run(source.replace(one.find, one.put) if k == i else source)
            if isinstance(error, AssertionError):
                return Verdict(one.says, "refused", k)
            if error is not None:
                return Verdict(one.says, "error", k, f"{type(error).__name__}: {error}"[:300])
        return Verdict(one.says, "passed", i)

    def apart(self, i: int, one: Falsehood) -> Verdict:
        """try_one in a child process, which leaves nothing behind in this one."""
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            signal.alarm(SECONDS)
            try:
                answer = json.dumps(asdict(self.try_one(i, one)))
                os.write(write, answer.encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            told = answer.read()
        os.waitpid(child, 0)
        return Verdict(**json.loads(told)) if told else Verdict(one.says, "too long", i)

    def verdicts(self) -> Iterator[Verdict]:
        """One for each falsehood, then one for each assert that the chapter as it stands never reached."""
        for i, source in enumerate(self.sources):
            for one in self.planted:
                if one.find in source:
                    yield self.apart(i, one)
            self.seen.clear()
            marking = Marked()
            self.shell.ast_transformers.append(marking)
            error = self.run(source)
            self.shell.ast_transformers.remove(marking)
            if error is not None:
                raise RuntimeError(f"cell {i} of the chapter itself ends in {type(error).__name__}: {error}")
            for line in sorted(marking.there - self.seen):
                said = source.splitlines()[line - 1].strip()
                yield Verdict(f"the assert {said[:80]!r} is never reached", "passed", i)


def check(path: Path) -> list[Verdict]:
    """The verdicts of one chapter, from a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    env = os.environ | threads | {"MPLBACKEND": "agg", "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "book.claims", str(path.resolve())]
    done = subprocess.run(command, cwd=path.parent, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{path.name} did not run: {done.stderr[-2000:]}")
    return [Verdict(**entry) for entry in json.loads(done.stdout.splitlines()[-1])]


def main(names: list[str]) -> int:
    try:
        chapters = chapters_named(names) or [path for path in in_order() if falsehoods(path)]
        without = [path.stem for path in chapters if not falsehoods(path)]
    except ValueError as error:
        print(error)
        return 2
    if without:
        print(f"{', '.join(without)}: no file in chapters/{FOLDER}")
        return 2
    wrong = 0
    for path in chapters:
        found = check(path)
        refused = [v for v in found if v.outcome == "refused"]
        print(f"{path.stem}: {len(refused)} of {len(found)} falsehoods refused", flush=True)
        for v in found:
            if v.outcome != "refused":
                print(f"  {v.outcome}, cell {v.cell}: {v.says} {v.detail}", flush=True)
        wrong += len(found) - len(refused)
    return 1 if wrong else 0


if __name__ == "__main__":
    told = [asdict(verdict) for verdict in Chapter(Path(sys.argv[1])).verdicts()]
    print(json.dumps(told))
