"""Build the book into a folder: python -m book build [FOLDER]. A warning makes it fail."""

import subprocess
import sys
from pathlib import Path

from book.places import ROOT


def build(folder: Path) -> None:
    """Run jupyter-book; raises CalledProcessError if there is an error or a warning."""
    jupyter_book = str(Path(sys.executable).parent / "jupyter-book")
    command = [jupyter_book, "build", str(ROOT), "--path-output", str(folder.parent)]
    # -W turns warnings into errors, --keep-going shows all of them, --all ignores earlier builds
    subprocess.run([*command, "--all", "-W", "--keep-going"], check=True, cwd=ROOT)


def main(folder: Path) -> int:
    try:
        build(folder.resolve())
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0
