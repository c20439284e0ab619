"""The widgets' ES modules as one text: a notebook loads it as a module, a built page as a plain script.

A browser that opens a page from a file refuses module scripts, and a notebook loads a widget from a Blob,
where relative imports fail. So the modules of js/ are joined into one text, each as a function that returns
its exports. They may use only the module syntax that IMPORT and EXPORT match: `import { a, b } from
"./x.js";` on one line, and `export function|const|class name`.
"""

import functools
import re
from importlib import resources
from importlib.resources.abc import Traversable

FOLDER = resources.files("llmcore.widgets")
IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (function|const|class) (\w+)", re.MULTILINE)
MODULE_SYNTAX = re.compile(r"^(import|export)\b.*$", re.MULTILINE)
# a comment that fills its lines: /** ... */ or // ...
COMMENT = re.compile(r"^[ \t]*(?:/\*\*(?:[^*]|\*(?!/))*\*/[ \t]*\n|//[^\n]*\n)", re.MULTILINE)


def _module(name: str, folder: Traversable, done: dict[str, str]) -> None:
    """Add a module and, before it, the modules it imports."""
    if name in done:
        return
    source = folder.joinpath(f"{name}.js").read_text(encoding="utf-8")
    done[name] = ""  # still empty when an import comes back to it: a cycle
    for _, other in IMPORT.findall(source):
        _module(other, folder, done)
        if not done[other]:
            raise ValueError(
                f"{name}.js and {other}.js import each other: put what both need into a third file"
            )
    for line in MODULE_SYNTAX.finditer(source):
        if not IMPORT.fullmatch(line.group()) and not EXPORT.match(line.group()):
            raise ValueError(
                f"{name}.js: {line.group()!r} is module syntax that the bundle does not read; see bundle.py"
            )
    names = ", ".join(exported for _, exported in EXPORT.findall(source))
    body = EXPORT.sub(r"\1 \2", IMPORT.sub(r"const { \1 } = $\2;", source))
    body = COMMENT.sub("", body)  # comments are for readers of js/
    done[name] = f"const ${name} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();\n"
    done[name] = done.pop(name)  # moves it behind the modules that it needs


@functools.cache
def bundle(folder: Traversable | None = None) -> str:
    """All modules that main.js needs, in order, as one text that declares $main (folder: by default js/)."""
    done: dict[str, str] = {}
    _module("main", folder or FOLDER.joinpath("js"), done)
    return "".join(done.values())


@functools.cache
def for_notebooks() -> str:
    """The module that anywidget loads."""
    return bundle() + "export default { render: $main.render };\n"


@functools.cache
def for_pages() -> str:
    """The script that a built page loads: it draws each figure from the state inside the figure."""
    start = (
        "const start = () => $main.bringToLife(document);\n"
        'if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);\n'
        "else start();\n"
    )
    return "(() => {\n" + bundle() + start + "})();\n"


@functools.cache
def style() -> str:
    """The style sheet, the same in notebooks and pages."""
    return FOLDER.joinpath("style.css").read_text(encoding="utf-8")
