"""The repository's address stands in pyproject.toml; this copies it wherever else it is needed.

The address of the published book and the Colab cell of each chapter follow from it.

python -m book address          say what differs (exit status 1 if anything does)
python -m book address --write  make it agree
"""

import re
import tomllib

import nbformat

from book.places import ROOT, notebooks

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"].rstrip("/")


def published(repository: str) -> str:
    """Where GitHub Pages serves the book of a repository.

    >>> published("https://github.com/Someone/a-book"), published("https://github.com/someone/Someone.github.io")
    ('https://someone.github.io/a-book/', 'https://someone.github.io/')
    """
    owner, name = repository.rstrip("/").removesuffix(".git").split("/")[-2:]
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


SITE = published(ADDRESS)
PDF = "llmcore-book.pdf"
RELEASE = f"v{PROJECT['version']}"

# The constraint file makes pip keep the torch and numpy that Colab has installed.
_REQUIREMENT = f'"llmcore[real] @ git+{ADDRESS}@{RELEASE}"'
COLAB_CELL = f"""\
try:
    import google.colab
except ImportError:
    pass
else:
    import importlib.metadata as _m, subprocess as _s, sys as _y, tempfile as _t
    with _t.NamedTemporaryFile("w", suffix=".txt", delete=False) as _f:
        _f.writelines(f"{{_p}}=={{_m.version(_p)}}\\n" for _p in ("torch", "numpy"))
    _s.run([_y.executable, "-m", "pip", "install", "-q", "-c", _f.name, {_REQUIREMENT}], check=True)
    google.colab.output.enable_custom_widget_manager()"""

# a file, a pattern (the text before the address, the address, the text after it), the right address
PLACES = [
    ("_config.yml", re.compile(r"(?m)^(  url: )(\S+)()$"), ADDRESS),
    ("_config.yml", re.compile(r"(?m)^(  baseurl: )(\S+)()$"), SITE),
    ("pyproject.toml", re.compile(r'(?m)^(Documentation = ")(\S+)(")$'), SITE),
    ("CITATION.cff", re.compile(r"(?m)^(repository-code: )(\S+)()$"), ADDRESS),
    ("README.md", re.compile(r"(git clone )(\S+)( )"), ADDRESS),
    ("CONTRIBUTING.md", re.compile(r"(git clone )(\S+)( )"), ADDRESS),
    ("README.md", re.compile(r"(\[read it\]\()(\S+?)(\))"), SITE),
    ("chapters/index.md", re.compile(r"(\[one PDF\]\()(\S+?)(\))"), SITE + PDF),
]


def differences(write: bool = False) -> list[str]:
    """The files that do not hold the address, and the chapters whose first cell is not the Colab cell.

    write: correct them too.
    """
    found = []
    for name, pattern, address in PLACES:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        mended, count = pattern.subn(lambda m, address=address: f"{m[1]}{address}{m[3]}", text)
        if count != 1 or mended != text:
            found.append(name)
            if write and count == 1:
                path.write_text(mended, encoding="utf-8")
    for path in notebooks():
        notebook = nbformat.read(path, as_version=4)
        first = next((c for c in notebook.cells if c.cell_type == "code"), None)
        if first is None or first.source != COLAB_CELL or "hide-input" not in first.metadata.get("tags", []):
            found.append(f"chapters/{path.name}")
            if write and first is not None:
                first.source, first.outputs, first.metadata["tags"] = COLAB_CELL, [], ["hide-input"]
                nbformat.write(notebook, path)
    return found


def main(write: bool = False) -> int:
    names = differences(write)
    print("\n".join(f"{'wrote' if write else 'differs'}: {n}" for n in names) or f"all agree: {ADDRESS}")
    return int(bool(names) and not write)
