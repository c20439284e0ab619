"""Build the book into a folder. Every warning is an error, and the exit status says so: python build.py [folder]"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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


if __name__ == "__main__":
    try:
        build(Path(sys.argv[1] if len(sys.argv) > 1 else "_build").resolve())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
