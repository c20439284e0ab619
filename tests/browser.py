"""A Chromium for the tests of the pages: the one on the machine, or one that this installs.

python tests/browser.py   say where it is; install it first where there is none
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Chromium would look for updates on the network; as root, in a container, it has no sandbox.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def find() -> str | None:
    """The path of a Chromium: on the PATH, or Playwright's own."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path:
        return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def install() -> None:
    """By the system's packages where this is root on Debian or Ubuntu, else by Playwright; failing both, the tests skip and say so."""
    if os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], env=quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], env=quiet, stdout=subprocess.DEVNULL)
    if find() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


if __name__ == "__main__":
    if find() is None:
        install()
    print(find() or "no Chromium could be installed: the tests of the pages will be skipped")
