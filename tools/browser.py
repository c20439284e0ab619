"""A Chromium for the tests of the pages: the one on the machine, or one that this installs.

python -m tools.browser           say where it is; install it first if there is none
python -m tools.browser --fonts   install fonts with Chinese characters and emoji, for the printed book
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Chromium would look for updates on the network; as root, in a container, it has no sandbox.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find() -> str | None:
    """The path of a Chromium: on the PATH, or Playwright's own."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path:
        return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def system_package(name: str) -> None:
    """Install by apt-get, if this is root or a machine of CI that allows it; elsewhere do nothing.

    Outside CI, another user's system packages are not ours to change.
    """
    if os.name != "posix" or not shutil.which("apt-get") or not (os.geteuid() == 0 or "CI" in os.environ):
        return
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*sudo, "apt-get", "update", "-qq"], env=quiet)
    subprocess.run([*sudo, "apt-get", "install", "-y", "-qq", name], env=quiet, stdout=subprocess.DEVNULL)


def install() -> None:
    """Install Chromium: as root on Debian or Ubuntu by apt-get, else by Playwright.

    If both fail, the tests that need a browser are skipped and say so.
    """
    if os.name == "posix" and os.geteuid() == 0:
        system_package("chromium")
    if find() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


# beyond Latin letters a printed book needs: what, fontconfig's pattern for it, a package that has it
FONTS = [
    ("Chinese characters", ":lang=zh", "fonts-noto-cjk"),
    ("emoji", ":lang=und-zsye", "fonts-noto-color-emoji"),
]


def missing_fonts() -> list[tuple[str, str]]:
    """(what, package) for each of FONTS that no installed font covers; all without fontconfig to ask."""
    there = shutil.which("fc-list")
    listed = lambda asked: subprocess.run(["fc-list", asked], capture_output=True, text=True).stdout
    has = lambda asked: there and listed(asked).strip()
    return [(what, package) for what, asked, package in FONTS if not has(asked)]


if __name__ == "__main__":
    if "--fonts" in sys.argv:
        for _, package in missing_fonts():
            system_package(package)
        sys.exit()
    if find() is None:
        install()
    print(find() or "no Chromium could be installed: the tests of the pages will be skipped")
