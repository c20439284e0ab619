"""Leaves out of the built pages what they do not use: icons that no page shows, styles of classes that none has, spans of code
without a colour, and more colours in a figure than a reader can tell apart.
"""

import re
from pathlib import Path

from PIL import Image

UNUSED = ("sphinx-design.min.css", "design-tabs.js")  # cards and tabs, which no chapter uses
COLOURS = 128  # of a figure's palette: a quarter of the bytes, and no difference to be seen
TOKEN = re.compile(r'<span class="(\w+)">([^<]*)</span>')  # a token of highlighted code
CLASS = re.compile(r"\.([a-zA-Z_][\w-]*)")
COMPOSED = ("bs-tooltip",)  # classes that a script puts together from parts
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
    """Keep what some page or script names."""
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    coloured = set(re.findall(r"\.highlight \.([\w-]+)", (out / "_static/pygments.css").read_text(encoding="utf-8")))
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if page.name != "search.html":
            text = SEARCH.sub("", text)
        text = TOKEN.sub(lambda m: m[0] if m[1] in coloured else m[2], text)
        page.write_text(text, encoding="utf-8")
    pages = "".join(p.read_text(encoding="utf-8") for p in out.rglob("*.html"))
    used = DRAWN_LATER | set(re.findall(r"\bfa-([\w-]+)", pages))

    def keep(match: re.Match) -> str:
        names = {match[1] or match[2], *re.findall(r'"([\w-]+)"', match[3])}
        return match[0] if names & used else ""

    for script in out.glob("_static/scripts/fontawesome.js"):
        script.write_text(ICON.sub(keep, script.read_text(encoding="utf-8")), encoding="utf-8")
    scripts = "".join(p.read_text(encoding="utf-8") for p in out.glob("_static/**/*.js") if "mathjax" not in p.parts)
    words = set(re.findall(r"[\w-]+", pages)) | set(re.findall(r"[\w-]+", scripts))
    words |= {
        name for sheet in out.glob("_static/styles/*.css") for name in CLASS.findall(sheet.read_text()) if name.startswith(COMPOSED)
    }
    for sheet in out.glob("_static/styles/*.css"):
        sheet.write_text(purge(FONT.sub("", sheet.read_text(encoding="utf-8")), words), encoding="utf-8")
    for figure in out.glob("_images/*.png"):
        with Image.open(figure) as image:
            image.convert("RGBA").quantize(COLOURS, Image.Quantize.FASTOCTREE).save(figure, optimize=True)


def purge(css: str, words: set[str]) -> str:
    """The style sheet without the rules of which every selector asks for a class that is no word of any page or script.

    >>> purge(".a:not(.d){x:1}.b .a,.c:hover{y:2}@media print{.b{z:3}.a{z:4}}@font-face{f:5}", {"a"})
    '.a:not(.d){x:1}@media print{.a{z:4}}@font-face{f:5}'
    """
    kept, place = [], 0
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    while (brace := css.find("{", place)) >= 0:
        head, end, depth = css[place:brace], brace + 1, 1
        while depth:  # braces inside strings come in pairs in the sheets that the theme has
            depth += {"{": 1, "}": -1}.get(css[end], 0)
            end += 1
        body = css[brace + 1 : end - 1]
        name = head.rsplit(";", 1)[-1].strip()  # @charset and the like stand before it
        asked = re.sub(r":not\([^)]*\)", "", name).split(",")
        if name.startswith(("@media", "@supports")):
            body = purge(body, words)
            if body.strip():
                kept.append(f"{head}{{{body}}}")
        elif name.startswith("@") or any(set(CLASS.findall(s)) <= words for s in asked):
            kept.append(f"{head}{{{body}}}")
        place = end
    return "".join(kept) + css[place:]
