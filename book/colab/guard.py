"""Makes the project's folder unreadable to every Python of an environment: in Colab it does not exist.

A .pth file imports this module before anything else runs, in the kernel and in the processes that it starts.
The .json file beside it names the folder.
"""

import json
import os
import sys
from pathlib import Path

SAID = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def refuse(
    event: str, arguments: tuple, forbidden: str = SAID["forbidden"], allowed: str = SAID["allowed"]
) -> None:
    """An audit hook: PermissionError for a file below `forbidden` that is not below `allowed`."""
    reads = event in ("open", "os.listdir", "os.scandir")
    if reads and arguments and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(arguments[0])) + os.sep
        if path.startswith(forbidden) and not path.startswith(allowed):
            raise PermissionError(f"{path[:-1]} is of the project's folder, which Colab does not have")


sys.addaudithook(refuse)
