"""Where things are: the project's folder, its chapters in the book's order, and the results of runs."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
ROWS = ROOT / "_build" / "checked"  # the results of nbval's last run over each chapter
KEPT = ROOT / "chapters" / "checked"  # the results that are committed and shown on the book's page


def notebooks(root: Path = ROOT) -> list[Path]:
    """Every notebook in the folder of chapters, by name."""
    return sorted((root / "chapters").glob("*.ipynb"))


def in_order(root: Path = ROOT) -> list[Path]:
    """The notebooks of the table of contents, in its order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    parts = toc.get("parts", [toc])
    listed = [root / f"{c['file']}.ipynb" for part in parts for c in part.get("chapters", [])]
    return [path for path in listed if path.exists()]  # some pages are Markdown


def chapters_named(names: list[str], root: Path = ROOT) -> list[Path]:
    """The chapters with these names: a path, a file's name or its stem. ValueError for an unknown name."""
    known = {path.stem: path for path in notebooks(root)}
    unknown = [name for name in names if Path(name).stem not in known]
    if unknown:
        raise ValueError(f"no such chapter: {', '.join(unknown)}; the chapters are {', '.join(known)}")
    return [known[Path(name).stem] for name in names]
