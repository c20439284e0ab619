"""The directives that say where a page's numbers come from.

{checked} is a report of `python -m book report` as text and a table; {versions} lists the versions that built
this page beside those that last ran the chapters.
"""

import json
import platform
import subprocess
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from book.freshness import Library, digest
from book.places import KEPT, ROOT, notebooks
from book.report import REPORTS, read

CHECKED = KEPT / "cpu.json"
RAN = ("python", "torch", "numpy", "llmcore")  # the versions that each row of CHECKED states
PACKAGES = (
    "llmcore", "torch", "numpy", "safetensors", "regex", "jaxtyping", "anywidget", "cloudpickle", "tqdm",
    "jupyter-book", "Sphinx", "myst-nb", "sphinx-book-theme", "sphinx-mathjax-offline", "matplotlib",
    "pillow", "nbformat",
)  # fmt: skip


def setup(app):
    app.add_directive("checked", Checked)
    app.add_directive("versions", Versions)
    return {"parallel_read_safe": True}


class Checked(SphinxDirective):
    """One argument, the report's name: cpu, cpu-other, cuda or colab."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in REPORTS:
            raise self.error(f"{name!r} is no report: there are {list(REPORTS)}")
        path = KEPT / f"{name}.json"
        self.env.note_dependency(str(path))
        library = Library(ROOT / "llmcore")
        now = {p.stem: digest(p, library) for p in notebooks()}
        text = markdown(REPORTS[name], read(path), now)
        return self.parse_text_to_nodes(text)


def markdown(title: str, rows: dict, now: dict[str, str]) -> str:
    """A report as Markdown. rows: by chapter, as committed. now: the digest of every chapter of the book.

    >>> markdown("CUDA", {}, {"1-2-embedding": "ab"})
    '**No run on this device has been kept: nothing is claimed for CUDA.**\\n'
    """
    if not rows:
        return f"**No run on this device has been kept: nothing is claimed for {title}.**\n"
    good = [c for c in now if c in rows and rows[c]["result"] == "passed" and rows[c]["of"] == now[c]]
    out = [f"{len(good)} of {len(now)} chapters passed as they stand here.", ""]
    places: dict[str, int] = {}
    for row in rows.values():
        said = "Python {python}, torch {torch}, numpy {numpy}, llmcore {llmcore}; "
        said += "{device}, {on}, threads: {threads}; {system}"
        place = said.format(**row) if "device" in row else "an unfinished run"
        places[place] = places.get(place, 0) + 1
    out += [f"- {place} (chapters: {count})" for place, count in places.items()]
    lines = Counter(line for row in rows.values() for line in beside(row))
    out += [f"- {line} (chapters: {count})" for line, count in lines.items()]
    if any("widgets" in row for row in rows.values()):
        widgets, pictures = (sum(row.get(k, 0) for row in rows.values()) for k in ("widgets", "pictures"))
        drawn = f"{pictures} figures were drawn"
        out += [f"- {widgets} widgets came with a live view and the table beside it, {drawn}"]
    heads = "| chapter | result | cells | compared | asserts | seconds | when (UTC) |"
    out += ["", heads, "|:--|:--|--:|--:|--:|--:|:--|"]
    for chapter, of in now.items():
        row = rows.get(chapter)
        if row is None:
            out.append(f"| [{chapter}]({chapter}) | not run | | | | | |")
            continue
        result = row["result"]
        if result != "passed":
            result = f"failed ({row['passed']} of {row['cells']} cells passed)"
        result += "" if row["of"] == of else ", of an earlier version"
        numbers = " | ".join(str(row[k]) for k in ("cells", "compared", "asserts", "seconds", "when"))
        out.append(f"| [{chapter}]({chapter}) | {result} | {numbers} |")
    return "\n".join(out) + "\n"


def beside(row: dict) -> list[str]:
    """The lines about a run in an imitation of Colab: the differences and why, the packages installed.

    >>> row = {"differs": {"torch": ["2.11.0", "2.13.0"]}, "why": ["no other build here"]}
    >>> for line in beside(row | {"added": ["gguf==0.19.0", "jedi==0.20.1"]}): print(line)
    unlike Colab: torch 2.13.0 (Colab: 2.11.0); no other build here
    installed by the chapter: `gguf==0.19.0`, `jedi==0.20.1`
    """
    if "differs" not in row:
        return []
    unlike = ", ".join(f"{name} {ours} (Colab: {theirs})" for name, (theirs, ours) in row["differs"].items())
    added = ", ".join(f"`{line}`" for line in row["added"])
    return [
        "; ".join([f"unlike Colab: {unlike or 'nothing'}", *row["why"]]),
        f"installed by the chapter: {added}",
    ]


class Versions(SphinxDirective):
    def run(self):
        self.env.note_dependency(str(CHECKED))
        rows = json.loads(CHECKED.read_text(encoding="utf-8")) if CHECKED.exists() else []
        return self.parse_text_to_nodes(versions_table(installed(), commit(ROOT), ran(rows)))


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
    """The commit that is checked out in the folder, and whether files differ; empty outside a checkout."""
    git = lambda *words: subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
    try:
        head = git("rev-parse", "--short=10", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no").stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return ""
    if head.returncode:
        return ""
    return head.stdout.strip() + (", with changes that are not committed" if changed else "")


def ran(rows: list[dict]) -> dict[str, str]:
    """The versions that the kernels named in the rows of a report; several are joined by commas."""
    return {name: ", ".join(sorted({row[name] for row in rows if name in row})) for name in RAN}


def versions_table(now: dict[str, str], commit: str, ran: dict[str, str]) -> str:
    """The versions of `now` beside those of the last run, as a Markdown table.

    >>> print(versions_table({"Python": "3.12.1", "regex": "1"}, "", {"python": "3.11.2"}))
    | | built this page | last ran the chapters (CPU) |
    |:--|:--|:--|
    | Python | 3.12.1 | 3.11.2 |
    | regex | 1 | |
    <BLANKLINE>
    """
    row = lambda name, said: f"| {name} | {said} | {ran.get(name.lower(), '')} |".replace("  ", " ")
    rows = [row(name, said) for name, said in now.items()]
    if commit:
        rows.append(f"| commit | {commit} | |")
    return "\n".join(["| | built this page | last ran the chapters (CPU) |", "|:--|:--|:--|", *rows]) + "\n"
