"""Runs chapters as Colab does: its packages, without llmcore and without this folder, from the notebook's
first cell to its last.

python -m book colab [CHAPTERS]   all of them or these, two at a time; the rows go into chapters/checked/colab.json

LLMCORE_COLAB_PYTHON names an interpreter in place of the one that is looked for, LLMCORE_COLAB_TORCH a
version of torch in place of the tests' own. What then differs from Colab is computed, kept with each row, and
shown on the book's page.
"""

import importlib.metadata
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from book.address import ADDRESS, RELEASE
from book.freshness import digest, hashed
from book.places import ROOT, ROWS, in_order
from book.report import Row, merge
from book.validate import QUIET, code_cells, keep, row_of, two_at_a_time, validate

LAID = Path(__file__).parent  # the list of packages, and what stands in for Colab's own
BASES = ROOT / "_build" / "colab"
# Colab's, then the next older ones that its packages can be installed for
PYTHONS = ("3.13", "3.12", "3.11")
# of the environment that this was started from, what would make a kernel other than Colab's
OURS = ("LLMCORE_", "PYTHON", "PYTEST_", "VIRTUAL_ENV", "JUPYTER", "IPYTHON", "MPL", "HF_", "CONDA", "GIT_")


def listed(text: str) -> tuple[str, dict[str, str]]:
    """Colab's Python, and its packages by their canonical names.

    >>> listed("# Python 3.13.15\\nJinja2==3.1.6\\n")
    ('3.13.15', {'jinja2': '3.1.6'})
    """
    pairs = [line.split("==") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return re.findall(r"^# Python (\S+)", text, re.MULTILINE)[0], {
        canonicalize_name(name): version for name, version in pairs
    }


COLAB_PYTHON, PACKAGES = listed((LAID / "packages.txt").read_text(encoding="utf-8"))


def version_of(python: str) -> str:
    """What the interpreter says of itself; "" where it is none (a shim of pyenv for a version that is
    switched off is none).
    """
    code = "import platform, venv; print(platform.python_version())"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def interpreters() -> Iterator[str]:
    """The interpreters of PYTHONS on this machine: on the PATH, below pyenv's root, or the one that runs
    this.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for version in PYTHONS:
        places = [
            shutil.which(f"python{version}"),
            *map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)),
        ]
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            places.append(sys.executable)
        yield from [p for p in places if p and version_of(p).startswith(f"{version}.")][:1]


class NoTorch(Exception):
    """pip has no build of the wanted torch for this interpreter."""


@dataclass
class Base:
    """An environment as Colab has it before a notebook begins, made once. It is copied for each chapter and
    never run itself.
    """

    folder: Path
    python: str
    torch: str
    refused: tuple[str, ...] = ()  # why it is not a Python nearer to Colab's

    @property
    def site(self) -> Path:
        return site(self.folder)

    def differs(self) -> dict[str, list[str]]:
        """Of Python and each package whose version is not Colab's: [Colab's, ours]."""
        ours = {
            canonicalize_name(d.metadata["Name"]): d.version
            for d in importlib.metadata.distributions(path=[str(self.site)])
        }
        found = {
            name: [there, ours.get(name, "none")]
            for name, there in PACKAGES.items()
            if ours.get(name) != there
        }
        return {"Python": [COLAB_PYTHON, self.python]} | found if self.python != COLAB_PYTHON else found


def site(environment: Path) -> Path:
    return next((environment / "lib").glob("python3*/site-packages"))


def pip(environment: Path, *words: str) -> subprocess.CompletedProcess:
    """pip of the tests' own environment, acting on another one."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(environment / "bin/python"),
        "--disable-pip-version-check",
        *words,
    ]
    return subprocess.run(command, capture_output=True, text=True, env=clean())


def clean() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(OURS)}


def make(python: str, torch: str, folder: Path) -> None:
    """Colab's packages in a new environment. Raises NoTorch, or RuntimeError with pip's words.

    The packages are taken as they are listed, so that no resolver chooses another version. Only torch's own
    needs come first: a torch that is not Colab's may need a newer version of something, and then that stays.
    """

    def must(*words: str, error: type[Exception] = RuntimeError) -> None:
        done = pip(folder, "install", "-q", "--no-compile", *words)
        if done.returncode:
            raise error(f"pip install {' '.join(words)}:\n{done.stderr[-3000:]}")

    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, env=clean())
    must("--no-deps", f"torch=={torch}", error=NoTorch)
    needs = [
        Requirement(r)
        for r in importlib.metadata.Distribution.at(next(site(folder).glob("torch-*.dist-info"))).requires
        or []
    ]
    too_old = {
        canonicalize_name(r.name)
        for r in needs
        if PACKAGES.get(canonicalize_name(r.name), "") not in r.specifier
    }
    kept = [
        f"{name}=={version}"
        for name, version in PACKAGES.items()
        if name != "torch" and name not in too_old & set(PACKAGES)
    ]
    (folder / "kept.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    must(f"torch=={torch}", "-c", str(folder / "kept.txt"))
    must("--no-deps", "-r", str(folder / "kept.txt"))
    # bytecode and fonts, written once and not for each chapter anew
    warm = "import torch, transformers, ipykernel.kernelapp, ipywidgets, anywidget, pip._internal.cli.main, matplotlib.pyplot, IPython"
    subprocess.run(
        [folder / "bin/python", "-c", warm], check=True, env=clean() | {"MPLCONFIGDIR": str(folder / "fonts")}
    )


def base(bases: Path = BASES) -> Base:
    """The environment for the first interpreter that a build of torch exists for; made where there is none
    yet.

    Raises ValueError where no interpreter will do.
    """
    torch = os.environ.get("LLMCORE_COLAB_TORCH") or importlib.metadata.version("torch")
    named = os.environ.get("LLMCORE_COLAB_PYTHON")
    refused = []
    for python in [shutil.which(named) or named] if named else interpreters():
        if not (version := version_of(python)):
            raise ValueError(f"COLAB_PYTHON={named!r} starts no Python: give its path, or leave it out")
        key = hashed(version, torch, inspect.getsource(make), (LAID / "packages.txt").read_bytes())
        folder = bases / f"{version}-{torch}-{key}"
        if not folder.exists():
            bases.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=bases, prefix="making-") as scratch:
                try:
                    make(python, torch, Path(scratch) / "made")
                except NoTorch:
                    refused.append(f"torch {torch} has no build for Python {version} here")
                    continue
                try:
                    os.rename(Path(scratch) / "made", folder)
                except OSError:
                    if not folder.exists():  # or else another process made the same one in the meantime
                        raise
        return Base(folder, version, torch, tuple(refused))
    raise ValueError(
        f"no Python of {PYTHONS} for Colab's environment ({'; '.join(refused) or 'none is here'}): "
        "install one, or name COLAB_PYTHON"
    )


def snapshot(folder: Path, root: Path = ROOT) -> tuple[Path, Path]:
    """The tree as it stands, committed or not: as a bare repository with the tag of the release, and as
    files.

    All that git writes goes to the new repository; the one at root, its index and its objects stay as they
    are.
    """
    bare, tree = folder / "llmcore.git", folder / "tree"
    names = {"GIT_AUTHOR_NAME": "snapshot", "GIT_AUTHOR_EMAIL": "snapshot@localhost"}
    names |= {"GIT_COMMITTER_NAME": "snapshot", "GIT_COMMITTER_EMAIL": "snapshot@localhost"}

    def git(*words: str) -> str:
        command = ["git", f"--git-dir={bare}", *words]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=clean() | names, cwd=root
        ).stdout.strip()

    git("init", "-q", "--bare")
    git("config", "uploadpack.allowFilter", "true")  # pip clones without the files of other commits
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    git("--work-tree=.", "add", "-A", ".")
    commit = git("commit-tree", git("write-tree"), "-m", "the tree as it stands")
    git("update-ref", "refs/heads/main", commit)
    git("symbolic-ref", "HEAD", "refs/heads/main")
    git("tag", RELEASE, commit)
    tree.mkdir()
    git(f"--work-tree={tree}", "checkout-index", "-a")
    return bare, tree


@contextmanager
def colab(made: Base) -> Iterator[Path]:
    """A copy of the base to run one chapter in, with Colab's own package and the guard. Files are links: pip
    writes into none.
    """
    with tempfile.TemporaryDirectory(dir=made.folder.parent, prefix="chapter-") as scratch:
        copy = Path(scratch) / "usr"
        shutil.copytree(made.folder, copy, symlinks=True, copy_function=os.link)
        shutil.copytree(
            LAID / "stand_in" / "google", site(copy) / "google", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(LAID / "guard.py", site(copy) / "_guard.py")
        (site(copy) / "_guard.json").write_text(
            json.dumps({"forbidden": f"{ROOT}{os.sep}", "allowed": f"{scratch}{os.sep}"}), encoding="utf-8"
        )
        (site(copy) / "_guard.pth").write_text("import _guard\n", encoding="utf-8")
        yield copy


def freeze(environment: Path) -> set[str]:
    done = subprocess.run(
        [environment / "bin/python", "-m", "pip", "freeze", "--all"],
        capture_output=True,
        text=True,
        check=True,
        env=clean(),
    )
    return set(done.stdout.split("\n")) - {""}


def files(environment: Path) -> dict[str, tuple[int, int, int]]:
    """Every file of the packages: which file it is on the disk, its size and its time."""
    places = [p for p in site(environment).rglob("*") if p.suffix != ".pyc" and not p.is_dir()]
    return {
        str(p.relative_to(environment)): (s.st_ino, s.st_size, s.st_mtime_ns)
        for p in places
        for s in [p.lstat()]
    }


def complaints(told: Row, before: set[str], after: set[str], touched: list[str], copy: Path) -> list[str]:
    """What else than nbval's own outcomes is not as it must be in Colab; empty where all is."""
    out = []
    if gone := sorted(before - after):
        out.append(f"packages that were there were changed: {gone}")
    if touched:
        out.append(f"files of packages that were there were changed: {touched[:5]} ({len(touched)} in all)")
    said = told["said"]
    if "__main__" not in said.get("managers", []):
        out.append(
            "the first cell did not enable the custom widget manager; "
            f"it was called from {said.get('managers')}"
        )
    if not said.get("llmcore_file", "").startswith(str(site(copy))):
        out.append(f"llmcore was not imported from the environment: {said.get('llmcore_file')!r}")
    if not any(line.startswith(f"llmcore @ git+{ADDRESS}@") for line in after - before):
        out.append("pip did not install llmcore from the repository's address")
    for number, cell in enumerate(told["cells"]):
        stored, showed = cell["stored"], cell["showed"]
        if cell["outcome"] == "passed" and (
            showed["pictures"] != stored["pictures"] or showed["widgets"] != stored["widgets"]
        ):
            out.append(
                f"cell {number} stores {stored['pictures']} pictures and {stored['widgets']} widgets and "
                f"showed {showed}"
            )
        if showed["live"] != showed["widgets"] or showed["unmarked"]:
            out.append(f"cell {number} shows a widget that Colab would not draw: {showed}")
    return out


def run(name: str, made: Base, bare: Path, tree: Path, rows: Path = ROWS) -> tuple[Row, str]:
    """One chapter of the snapshot, as stored, in an environment and a folder of its own: its row, kept in
    rows/colab, and the text.
    """
    chapter = tree / "chapters" / f"{name}.ipynb"
    with colab(made) as copy, tempfile.TemporaryDirectory() as scratch:
        content = Path(scratch) / "content"
        content.mkdir()
        shutil.copy(chapter, content)
        kernel = Path(scratch) / "jupyter/kernels/colab/kernel.json"
        kernel.parent.mkdir(parents=True)
        words = [str(copy / "bin/python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        kernel.write_text(
            json.dumps({"argv": words, "display_name": "Colab", "language": "python"}), encoding="utf-8"
        )
        environment = clean() | {key: value for key, value in QUIET.items() if not key.startswith("LLMCORE_")}
        environment |= {
            "PATH": f"{copy / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "JUPYTER_PATH": str(kernel.parents[2]),
        }
        environment |= {
            "IPYTHONDIR": f"{scratch}/ipython",
            "MPLCONFIGDIR": str(copy / "fonts"),
            "HF_HOME": f"{scratch}/hf",
        }
        environment |= {"LLMCORE_CACHE": f"{scratch}/cache"}
        # the address that the first cell names, answered by the snapshot
        environment |= {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{bare.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": ADDRESS,
        }
        before, files_before = freeze(copy), files(copy)
        told = validate(content / chapter.name, environment, "colab")
        after, files_after = freeze(copy), files(copy)
        touched = [name for name, about in files_before.items() if files_after.get(name) != about]
        wrong = complaints(told, before, after, touched, copy)
    row = row_of(name, code_cells(chapter), digest(chapter), told)
    if wrong:
        row["result"] = "failed"
    for key in ("managers", "llmcore_file"):
        row.pop(key, None)
    row |= {kind: sum(c["showed"][kind] for c in told["cells"]) for kind in ("pictures", "widgets")}
    row |= {
        "differs": made.differs(),
        "why": list(made.refused),
        "added": sorted(re.sub(r" @ git\+(.*)@.*", r" from \1", line) for line in after - before),
    }
    keep(row, rows / "colab")
    return row, "\n".join([told["text"], *wrong])


def main(chapters: list[str]) -> int:
    listed = [path.stem for path in in_order()]
    wanted = [Path(c).stem for c in chapters]
    if unknown := sorted(set(wanted) - set(listed)):
        print(f"CHAPTERS names {unknown}, which _toc.yml does not list: give the name of a notebook there")
        return 2
    try:
        made = base()
    except ValueError as error:
        print(error)
        return 2
    for what, (theirs, ours) in made.differs().items():
        print(f"{what}: {ours} here, {theirs} in Colab")
    print(*made.refused, sep="\n")
    with tempfile.TemporaryDirectory() as scratch:
        bare, tree = snapshot(Path(scratch))
        passed = two_at_a_time(lambda name: run(name, made, bare, tree), wanted or listed)
    print(
        f"chapters/checked/colab.json: {merge(names=('colab',))['colab']} rows; "
        f"{sum(passed)} of {len(passed)} chapters passed"
    )
    return int(not all(passed))
