"""A Chromium for the tests of the pages: the one on the machine, or one that this installs.

python -m tools.browser           say where it is; install it first where there is none
python -m tools.browser --fonts   the same for fonts with Chinese characters and emoji, which a printed book needs
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
    """By apt-get, where this is root or a machine of CI that lets us be; elsewhere a system's packages are
    its owner's business.
    """
    if os.name != "posix" or not shutil.which("apt-get") or not (os.geteuid() == 0 or "CI" in os.environ):
        return
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*sudo, "apt-get", "update", "-qq"], env=quiet)
    subprocess.run([*sudo, "apt-get", "install", "-y", "-qq", name], env=quiet, stdout=subprocess.DEVNULL)


def install() -> None:
    """By the system's packages where this is root on Debian or Ubuntu, else by Playwright; failing both, the
    tests skip and say so.
    """
    if os.name == "posix" and os.geteuid() == 0:
        system_package("chromium")
    if find() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


# what a printed book needs besides Latin letters: the name, how fontconfig is asked for it, and a package
# that has it
FONTS = [
    ("Chinese characters", ":lang=zh", "fonts-noto-cjk"),
    ("emoji", ":lang=und-zsye", "fonts-noto-color-emoji"),
]


def missing_fonts() -> list[tuple[str, str]]:
    """What no font here has, and the package that brings it; all of FONTS where there is no fontconfig to
    ask.
    """
    there = shutil.which("fc-list")
    has = lambda asked: (
        there and subprocess.run(["fc-list", asked], capture_output=True, text=True).stdout.strip()
    )
    return [(what, package) for what, asked, package in FONTS if not has(asked)]


if __name__ == "__main__":
    if "--fonts" in sys.argv:
        for _, package in missing_fonts():
            system_package(package)
        sys.exit()
    if find() is None:
        install()
    print(find() or "no Chromium could be installed: the tests of the pages will be skipped")
