"""python -m book COMMAND: everything that is done to the book. python -m book COMMAND --help says more."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Each command imports its own module: the environment that builds the book has neither torch nor a browser.


def build(options: argparse.Namespace) -> int:
    from book.build import main

    return main(options.folder)


def pdf(options: argparse.Namespace) -> int:
    from book.pdf import main

    return main(options.html, options.out, options.chapters)


def stale(options: argparse.Namespace) -> int:
    from book.freshness import main

    return main()


def refresh(options: argparse.Namespace) -> int:
    from book.refresh import main

    return main(options.chapters, options.all)


def bless(options: argparse.Namespace) -> int:
    from book.refresh import main

    return main(options.chapters, options.all, only_bless=True)


def notebooks(options: argparse.Namespace) -> int:
    from book.validate import main

    return main(options.chapters, options.device, options.variant)


def claims(options: argparse.Namespace) -> int:
    from book.claims import main

    return main(options.chapters)


def colab(options: argparse.Namespace) -> int:
    from book.colab.run import main

    return main(options.chapters)


def report(options: argparse.Namespace) -> int:
    from book.report import main

    return main()


def address(options: argparse.Namespace) -> int:
    from book.address import main

    return main(options.write)


COMMANDS: dict[Callable[[argparse.Namespace], int], str] = {
    build: "build the book; every warning is an error",
    pdf: "print the built book as one PDF",
    stale: "say which chapters' outputs are older than what they rest on, and why",
    refresh: "run the stale chapters, or those named, and store what they print and draw",
    bless: "compare instead of storing: chapters that still compute what they show are marked as fresh",
    notebooks: "hold the stored outputs of all chapters, or those named, against what runs here",
    claims: "hold the chapters' asserts against planted falsehoods, which they must refuse",
    colab: "run chapters as Colab does, with its packages and without this folder",
    report: "keep what the last notebooks found, for the page that says what was checked",
    address: "compare the repository's address wherever it stands",
}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m book", description=__doc__)
    adding = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {}
    for run, said in COMMANDS.items():
        parsers[run.__name__] = adding.add_parser(run.__name__, help=said, description=said)
    for name in ("pdf", "refresh", "bless", "notebooks", "claims", "colab"):
        parsers[name].add_argument("chapters", nargs="*", help="names of chapters, such as 1-2-embedding")
    for name in ("refresh", "bless"):
        parsers[name].add_argument("--all", action="store_true", help="all chapters, stale or not")
    add = lambda command, name, **options: parsers[command].add_argument(name, **options)
    add("build", "folder", nargs="?", type=Path, default=Path("_build"), help="the pages go to FOLDER/html")
    add("pdf", "--html", type=Path, default=Path("_build/html"), help="the built book")
    add("pdf", "--out", type=Path, default=Path("_build/pdf/llmcore-book.pdf"), help="the file to write")
    add("notebooks", "--device", default="", help="cpu or cuda; by default the one that a reader would get")
    add(
        "notebooks", "--variant", default="", help="other arithmetic on this processor: see tools/variants.py"
    )
    add("address", "--write", action="store_true", help="write pyproject.toml's address wherever it stands")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    os.environ["TQDM_DISABLE"] = "1"  # no progress bars in stored outputs
    return next(run for run in COMMANDS if run.__name__ == options.command)(options)


if __name__ == "__main__":
    sys.exit(main())
