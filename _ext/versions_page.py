"""The directive {versions}: what built this page, as the environment says while it is built, beside what last ran the chapters."""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]
CHECKED = ROOT / "chapters/checked/cpu.json"  # its rows name these
RAN = ("python", "torch", "numpy", "llmcore")
PACKAGES = (
    "llmcore", "torch", "numpy", "safetensors", "regex", "jaxtyping", "anywidget", "cloudpickle", "tqdm",
    "jupyter-book", "Sphinx", "myst-nb", "sphinx-book-theme", "sphinx-mathjax-offline", "matplotlib", "pillow", "nbformat",
)  # fmt: skip


class Versions(SphinxDirective):
    def run(self):
        self.env.note_dependency(str(CHECKED))
        rows = json.loads(CHECKED.read_text(encoding="utf-8")) if CHECKED.exists() else []
        return self.parse_text_to_nodes(markdown(installed(), commit(ROOT), ran(rows)))


def installed() -> dict[str, str]:
    """Name and version of Python and of each package."""
    out = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:  # the build runs no chapter
            out[name] = "not needed"
    return out


def commit(folder: Path) -> str:
    """The commit that is checked out there, and whether files differ from it; empty outside a checkout."""
    git = lambda *words: subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
    try:
        head = git("rev-parse", "--short=10", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return ""
    return "" if head.returncode else head.stdout.strip() + (", with changes that are not committed" if changed else "")


def ran(rows: list[dict]) -> dict[str, str]:
    """From the rows of a kept report: each version that a kernel named, as text."""
    return {name: ", ".join(sorted({row[name] for row in rows if name in row})) for name in RAN}


def markdown(now: dict[str, str], commit: str, ran: dict[str, str]) -> str:
    """
    >>> print(markdown({"Python": "3.12.1", "regex": "1"}, "", {"python": "3.11.2"}))
    | | built this page | last ran the chapters (CPU) |
    |:--|:--|:--|
    | Python | 3.12.1 | 3.11.2 |
    | regex | 1 | |
    <BLANKLINE>
    """
    rows = [f"| {name} | {said} | {ran.get(name.lower(), '')} |".replace("  ", " ") for name, said in now.items()]
    if commit:
        rows.append(f"| commit | {commit} | |")
    return "\n".join(["| | built this page | last ran the chapters (CPU) |", "|:--|:--|:--|", *rows]) + "\n"


def setup(app):
    app.add_directive("versions", Versions)
    return {"parallel_read_safe": True}
