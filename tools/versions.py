"""The constraints for pip of a set of versions: which torch and numpy the checks run with.

python -m tools.versions pinned   constraints.txt as it is
python -m tools.versions oldest   the same with the oldest torch and numpy that pyproject.toml admits
python -m tools.versions newest   the same without torch and numpy: pip takes the newest
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIED = ("torch", "numpy")


def constraints(which: str, pins: str, dependencies: list[str]) -> str:
    """The text of a constraints file. Raises ValueError for another set, or where no lower bound is stated.

    >>> constraints("oldest", "numpy==2.4.6\\nruff==1.0\\n", ["torch>=2.6", "numpy>=1.26"])
    'ruff==1.0\\ntorch==2.6.*\\nnumpy==1.26.*\\n'
    """
    if which == "pinned":
        return pins
    if which not in ("oldest", "newest"):
        raise ValueError(f"VERSIONS={which!r} is none of pinned, oldest, newest")
    kept = [line for line in pins.splitlines() if re.split(r"[=<>~! ]", line)[0].lower() not in VARIED]
    if which == "newest":
        return "\n".join(kept) + "\n"
    stated = dict(found for d in dependencies for found in re.findall(r"^([\w-]+)>=([\d.]+)", d))
    if set(VARIED) - set(stated):
        raise ValueError(
            f"{sorted(set(VARIED) - set(stated))} have no lower bound in pyproject.toml: "
            "state one as name>=version"
        )
    return "\n".join([*kept, *(f"{name}=={stated[name]}.*" for name in VARIED)]) + "\n"


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    try:
        print(constraints(sys.argv[1], pins, project["dependencies"]), end="")
    except (ValueError, IndexError) as error:
        sys.exit(str(error))
