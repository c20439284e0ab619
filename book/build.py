"""Build the book into a folder: python -m book build [FOLDER]. Every warning is an error, and the exit status
says so.
"""

import subprocess
import sys
from pathlib import Path

from book.places import ROOT


def build(folder: Path) -> None:
    """Runs jupyter-book; raises CalledProcessError when it found anything to warn of."""
    command = [
        str(Path(sys.executable).parent / "jupyter-book"),
        "build",
        str(ROOT),
        "--path-output",
        str(folder.parent),
    ]
    # -W turns warnings into errors, --keep-going shows all of them, --all forgets earlier builds
    subprocess.run([*command, "--all", "-W", "--keep-going"], check=True, cwd=ROOT)


def main(folder: Path) -> int:
    try:
        build(folder.resolve())
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0
