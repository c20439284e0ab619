"""Refuses to read the project's own folder to every Python of the environment: a chapter in Colab has its
notebook and nothing else.

A .pth file imports this before anything else runs, in the kernel and in the processes that it starts. A .json
file beside it names the folder.
"""

import json
import os
import sys
from pathlib import Path

SAID = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def refuse(
    event: str, arguments: tuple, forbidden: str = SAID["forbidden"], allowed: str = SAID["allowed"]
) -> None:
    if (
        event in ("open", "os.listdir", "os.scandir")
        and arguments
        and isinstance(arguments[0], (str, bytes, os.PathLike))
    ):
        path = os.path.abspath(os.fsdecode(arguments[0])) + os.sep
        if path.startswith(forbidden) and not path.startswith(allowed):
            raise PermissionError(f"{path[:-1]} is of the project's folder, which Colab does not have")


sys.addaudithook(refuse)
