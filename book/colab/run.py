"""Run chapters as Colab does: with its packages, without llmcore and without this folder.

python -m book colab [CHAPTERS]   all of them or these, two at a time

The rows go into chapters/checked/colab.json. LLMCORE_COLAB_PYTHON names an interpreter instead of the one
that is looked for, LLMCORE_COLAB_TORCH a version of torch instead of that of the tests. The remaining
differences from Colab are computed, stored with each row, and shown on the book's page.
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
from book.validate import QUIET, code_cells, row_of, two_at_a_time, validate, write_row

LAID = Path(__file__).parent  # has the list of packages and the stand-in for Colab's own
BASES = ROOT / "_build" / "colab"
# Colab's version, then the next older ones for which its packages can be installed
PYTHONS = ("3.13", "3.12", "3.11")
# environment variables of this process, by prefix, that would make a kernel differ from Colab's
OURS = ("LLMCORE_", "PYTHON", "PYTEST_", "VIRTUAL_ENV", "JUPYTER", "IPYTHON", "MPL", "HF_", "CONDA", "GIT_")


def listed(text: str) -> tuple[str, dict[str, str]]:
    """Colab's Python, and its packages by their canonical names.

    >>> listed("# Python 3.13.15\\nJinja2==3.1.6\\n")
    ('3.13.15', {'jinja2': '3.1.6'})
    """
    pairs = [line.split("==") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    python = re.findall(r"^# Python (\S+)", text, re.MULTILINE)[0]
    return python, {canonicalize_name(name): version for name, version in pairs}


COLAB_PYTHON, PACKAGES = listed((LAID / "packages.txt").read_text(encoding="utf-8"))


def version_of(python: str) -> str:
    """The interpreter's version; "" if it does not start, as a shim of pyenv for a disabled version."""
    code = "import platform, venv; print(platform.python_version())"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def interpreters() -> Iterator[str]:
    """One interpreter for each of PYTHONS: on the PATH, below pyenv's root, or the one that runs this."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for version in PYTHONS:
        below_pyenv = sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
        places = [shutil.which(f"python{version}"), *map(str, below_pyenv)]
        if version == f"{sys.version_info.major}.{sys.version_info.minor}":
            places.append(sys.executable)
        yield from [p for p in places if p and version_of(p).startswith(f"{version}.")][:1]


class NoTorch(Exception):
    """pip has no build of the wanted torch for this interpreter."""


@dataclass
class Base:
    """An environment as Colab has it before a notebook begins: made once, and copied for each chapter."""

    folder: Path
    python: str
    torch: str
    refused: tuple[str, ...] = ()  # why no Python nearer to Colab's could be used

    @property
    def site(self) -> Path:
        return site(self.folder)

    def differs(self) -> dict[str, list[str]]:
        """[Colab's version, ours] of Python and of each package where they differ."""
        installed = importlib.metadata.distributions(path=[str(self.site)])
        ours = {canonicalize_name(d.metadata["Name"]): d.version for d in installed}
        ours = {name: ours.get(name, "none") for name in PACKAGES}
        found = {name: [there, ours[name]] for name, there in PACKAGES.items() if ours[name] != there}
        return {"Python": [COLAB_PYTHON, self.python]} | found if self.python != COLAB_PYTHON else found


def site(environment: Path) -> Path:
    """Its folder of packages."""
    return next((environment / "lib").glob("python3*/site-packages"))


def pip(environment: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the pip of this environment on another one."""
    python = str(environment / "bin/python")
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *words]
    return subprocess.run(command, capture_output=True, text=True, env=clean())


def clean() -> dict[str, str]:
    """The environment variables without those of OURS."""
    return {key: value for key, value in os.environ.items() if not key.startswith(OURS)}


def make(python: str, torch: str, folder: Path) -> None:
    """Install Colab's packages into a new environment. Raises NoTorch, or RuntimeError with pip's words.

    The packages are installed exactly as listed, so that no resolver chooses other versions. Only torch's own
    requirements come first: a torch that is not Colab's may need newer versions, and these then stay.
    """

    def must(*words: str, error: type[Exception] = RuntimeError) -> None:
        done = pip(folder, "install", "-q", "--no-compile", *words)
        if done.returncode:
            raise error(f"pip install {' '.join(words)}:\n{done.stderr[-3000:]}")

    subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, env=clean())
    must("--no-deps", f"torch=={torch}", error=NoTorch)
    info = next(site(folder).glob("torch-*.dist-info"))
    needs = [Requirement(r) for r in importlib.metadata.Distribution.at(info).requires or []]
    colabs = lambda needed: PACKAGES.get(canonicalize_name(needed.name), "")
    too_old = {canonicalize_name(r.name) for r in needs if colabs(r) not in r.specifier}
    kept = [f"{name}=={v}" for name, v in PACKAGES.items() if name != "torch" and name not in too_old]
    (folder / "kept.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    must(f"torch=={torch}", "-c", str(folder / "kept.txt"))
    must("--no-deps", "-r", str(folder / "kept.txt"))
    # bytecode and the cache of fonts are written here once, not again for each chapter
    warm = "import torch, transformers, ipykernel.kernelapp, ipywidgets, anywidget, "
    warm += "pip._internal.cli.main, matplotlib.pyplot, IPython"
    fonts = {"MPLCONFIGDIR": str(folder / "fonts")}
    subprocess.run([folder / "bin/python", "-c", warm], check=True, env=clean() | fonts)


def base(bases: Path = BASES) -> Base:
    """The environment for the first interpreter that has a build of torch, made if it does not exist yet.

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
                    if not folder.exists():  # else another process has made the same one
                        raise
        return Base(folder, version, torch, tuple(refused))
    raise ValueError(
        f"no Python of {PYTHONS} for Colab's environment ({'; '.join(refused) or 'none is here'}): "
        "install one, or name COLAB_PYTHON"
    )


def snapshot(folder: Path, root: Path = ROOT) -> tuple[Path, Path]:
    """The working tree, committed or not, as a bare repository with the release's tag and as a folder.

    All that git writes goes into the new repository; the one at root, its index and its objects do not
    change.
    """
    bare, tree = folder / "llmcore.git", folder / "tree"
    names = {"GIT_AUTHOR_NAME": "snapshot", "GIT_AUTHOR_EMAIL": "snapshot@localhost"}
    names |= {"GIT_COMMITTER_NAME": "snapshot", "GIT_COMMITTER_EMAIL": "snapshot@localhost"}

    def git(*words: str) -> str:
        command, env = ["git", f"--git-dir={bare}", *words], clean() | names
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env, cwd=root)
        return done.stdout.strip()

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
    """A copy of the base in which one chapter runs, with the stand-in for Colab's package and the guard.

    Its files are hard links to the base's, since pip replaces files and never writes into one.
    """
    with tempfile.TemporaryDirectory(dir=made.folder.parent, prefix="chapter-") as scratch:
        copy = Path(scratch) / "usr"
        shutil.copytree(made.folder, copy, symlinks=True, copy_function=os.link)
        packages, without_bytecode = site(copy), shutil.ignore_patterns("__pycache__")
        shutil.copytree(LAID / "stand_in" / "google", packages / "google", ignore=without_bytecode)
        shutil.copy(LAID / "guard.py", packages / "_guard.py")
        said = json.dumps({"forbidden": f"{ROOT}{os.sep}", "allowed": f"{scratch}{os.sep}"})
        (packages / "_guard.json").write_text(said, encoding="utf-8")
        (packages / "_guard.pth").write_text("import _guard\n", encoding="utf-8")
        yield copy


def freeze(environment: Path) -> set[str]:
    """The installed packages, as lines of pip freeze."""
    command = [environment / "bin/python", "-m", "pip", "freeze", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean())
    return set(done.stdout.split("\n")) - {""}


def files(environment: Path) -> dict[str, tuple[int, int, int]]:
    """(inode, size, modification time) of every file of the packages, by its path."""
    places = [p for p in site(environment).rglob("*") if p.suffix != ".pyc" and not p.is_dir()]
    stats = {str(p.relative_to(environment)): p.lstat() for p in places}
    return {name: (s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats.items()}


def complaints(told: Row, before: set[str], after: set[str], touched: list[str], copy: Path) -> list[str]:
    """All that is not as it must be in Colab, beside the outcomes of nbval; empty if nothing is wrong."""
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
        differs = any(showed[kind] != stored[kind] for kind in ("pictures", "widgets"))
        if cell["outcome"] == "passed" and differs:
            out.append(
                f"cell {number} stores {stored['pictures']} pictures and {stored['widgets']} widgets and "
                f"showed {showed}"
            )
        if showed["live"] != showed["widgets"] or showed["unmarked"]:
            out.append(f"cell {number} shows a widget that Colab would not draw: {showed}")
    return out


def in_colab(copy: Path, scratch: Path, bare: Path) -> dict[str, str]:
    """The environment variables for a chapter that runs in `copy`, and a kernel specification "colab" for it.

    All that the chapter writes goes into scratch. The repository's address, which the first cell names, is
    answered by the snapshot `bare`.
    """
    kernel = scratch / "jupyter/kernels/colab/kernel.json"
    kernel.parent.mkdir(parents=True)
    words = [str(copy / "bin/python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": words, "display_name": "Colab", "language": "python"}
    kernel.write_text(json.dumps(spec), encoding="utf-8")
    quiet = {key: value for key, value in QUIET.items() if not key.startswith("LLMCORE_")}
    environment = clean() | quiet
    return environment | {
        "PATH": f"{copy / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_PATH": str(kernel.parents[2]),
        "IPYTHONDIR": f"{scratch}/ipython",
        "MPLCONFIGDIR": str(copy / "fonts"),
        "HF_HOME": f"{scratch}/hf",
        "LLMCORE_CACHE": f"{scratch}/cache",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{bare.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": ADDRESS,
    }


def run(name: str, made: Base, bare: Path, tree: Path, rows: Path = ROWS) -> tuple[Row, str]:
    """Run one chapter of the snapshot in a new environment and folder.

    Returns its row, which is also written to rows/colab, and what pytest printed with the complaints.
    """
    chapter = tree / "chapters" / f"{name}.ipynb"
    with colab(made) as copy, tempfile.TemporaryDirectory() as scratch:
        content = Path(scratch) / "content"
        content.mkdir()
        shutil.copy(chapter, content)
        environment = in_colab(copy, Path(scratch), bare)
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
    added = sorted(re.sub(r" @ git\+(.*)@.*", r" from \1", line) for line in after - before)
    row |= {"differs": made.differs(), "why": list(made.refused), "added": added}
    write_row(row, rows / "colab")
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
    rows = merge(names=("colab",))["colab"]
    print(f"chapters/checked/colab.json: {rows} rows; {sum(passed)} of {len(passed)} chapters passed")
    return int(not all(passed))
