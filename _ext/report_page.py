"""The directive {checked}: a report of tests/report.py as text and a table; where there is none, the sentence that there is none."""

import sys
from collections import Counter
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]


class Checked(SphinxDirective):
    """One argument, the report's name: cpu, cpu-other, cuda or colab."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        sys.path.append(str(ROOT / "tests"))
        from freshness import Library, digest
        from report import KEPT, REPORTS, read

        name = self.arguments[0]
        if name not in REPORTS:
            raise self.error(f"{name!r} is no report: there are {list(REPORTS)}")
        path = KEPT / f"{name}.json"
        self.env.note_dependency(str(path))
        library = Library(ROOT / "llmcore")
        now = {p.stem: digest(p, library) for p in sorted((ROOT / "chapters").glob("*.ipynb"))}
        text = markdown(REPORTS[name], read(path), now)
        return self.parse_text_to_nodes(text)


def markdown(title: str, rows: dict, now: dict[str, str]) -> str:
    """rows: by chapter, as kept. now: the digest of every chapter of the book.

    >>> markdown("CUDA", {}, {"1-2-embedding": "ab"})
    '**No run on this device has been kept: nothing is claimed for CUDA.**\\n'
    """
    if not rows:
        return f"**No run on this device has been kept: nothing is claimed for {title}.**\n"
    good = [c for c in now if c in rows and rows[c]["result"] == "passed" and rows[c]["of"] == now[c]]
    out = [f"{len(good)} of {len(now)} chapters passed as they stand here.", ""]
    places: dict[str, int] = {}
    for row in rows.values():
        said = "Python {python}, torch {torch}, numpy {numpy}, llmcore {llmcore}; {device}, {on}, threads: {threads}; {system}"
        place = said.format(**row) if "device" in row else "an unfinished run"
        places[place] = places.get(place, 0) + 1
    out += [f"- {place} (chapters: {count})" for place, count in places.items()]
    out += [f"- {line} (chapters: {count})" for line, count in Counter(line for row in rows.values() for line in beside(row)).items()]
    if any("widgets" in row for row in rows.values()):
        widgets, pictures = (sum(row.get(kind, 0) for row in rows.values()) for kind in ("widgets", "pictures"))
        out += [f"- {widgets} widgets came with a live view and the table beside it, {pictures} figures were drawn"]
    out += ["", "| chapter | result | cells | compared | asserts | seconds | when (UTC) |", "|:--|:--|--:|--:|--:|--:|:--|"]
    for chapter, digest in now.items():
        row = rows.get(chapter)
        if row is None:
            out.append(f"| [{chapter}]({chapter}) | not run | | | | | |")
            continue
        result = row["result"] if row["result"] == "passed" else f"failed ({row['passed']} of {row['cells']} cells passed)"
        result += "" if row["of"] == digest else ", of an earlier version"
        numbers = " | ".join(str(row[k]) for k in ("cells", "compared", "asserts", "seconds", "when"))
        out.append(f"| [{chapter}]({chapter}) | {result} | {numbers} |")
    return "\n".join(out) + "\n"


def beside(row: dict) -> list[str]:
    """Of a run in an environment that imitates another: how the two differ and why, and what the chapter installed there.

    >>> beside({"differs": {"torch": ["2.11.0", "2.13.0"]}, "why": ["no other build here"], "added": ["gguf==0.19.0", "jedi==0.20.1"]})
    ['unlike Colab: torch 2.13.0 (Colab: 2.11.0); no other build here', 'installed by the chapter: `gguf==0.19.0`, `jedi==0.20.1`']
    """
    if "differs" not in row:
        return []
    unlike = ", ".join(f"{name} {ours} (Colab: {theirs})" for name, (theirs, ours) in row["differs"].items())
    added = ", ".join(f"`{line}`" for line in row["added"])
    return ["; ".join([f"unlike Colab: {unlike or 'nothing'}", *row["why"]]), f"installed by the chapter: {added}"]


def setup(app):
    app.add_directive("checked", Checked)
    return {"parallel_read_safe": True}
