"""Leaves out of the built pages what they do not use: icons that no page shows, styles and scripts of components that none has."""

import re
from pathlib import Path

UNUSED = ("sphinx-design.min.css", "design-tabs.js")  # cards and tabs, which no chapter uses
# one icon of Font Awesome's script: name: [width, height, [other names], code, path]
ICON = re.compile(r'(?:"([\w-]+)"|([a-z]\w*)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]*",(?:"[^"]*"|\[[^\]]*\])\],?')
# the same icons a second time, as a font: the script draws them
FONT = re.compile(r"@font-face\{[^}]*Font Awesome[^}]*\}|(?:\.fa-[\w-]+::?before,?)+\{[^}]*\}")
# every page would load the search's index; only the search's own page reads it
SEARCH = re.compile(r'\s*<script[^>]*src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"[^>]*></script>')
DRAWN_LATER = {"sun", "moon", "circle-half-stroke", "lightbulb"}  # by the theme's own script


def setup(app):
    app.connect("html-page-context", drop, priority=900)
    app.connect("build-finished", thin)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def drop(app, page, template, context, doctree):
    for kind in ("css_files", "script_files"):
        context[kind] = [file for file in context[kind] if not str(getattr(file, "filename", file)).endswith(UNUSED)]


def thin(app, exception):
    """Keep the icons that some page names; Font Awesome's script holds two thousand."""
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for page in out.rglob("*.html"):
        if page.name != "search.html":
            page.write_text(SEARCH.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    used = DRAWN_LATER.union(*(re.findall(r"\bfa-([\w-]+)", p.read_text(encoding="utf-8")) for p in out.rglob("*.html")))

    def keep(match: re.Match) -> str:
        names = {match[1] or match[2], *re.findall(r'"([\w-]+)"', match[3])}
        return match[0] if names & used else ""

    for sheet in out.glob("_static/styles/*.css"):
        sheet.write_text(FONT.sub("", sheet.read_text(encoding="utf-8")), encoding="utf-8")
    for script in out.glob("_static/scripts/fontawesome.js"):
        script.write_text(ICON.sub(keep, script.read_text(encoding="utf-8")), encoding="utf-8")
