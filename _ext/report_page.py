"""The directive {checked}: a report of tests/report.py as text and a table; where there is none, the sentence that there is none."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[1]


class Checked(SphinxDirective):
    """One argument, the report's name: cpu, cpu-other or cuda."""

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


def setup(app):
    app.add_directive("checked", Checked)
    return {"parallel_read_safe": True}
