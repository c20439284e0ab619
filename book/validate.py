"""Run one chapter under nbval and report what nbval found and what the kernel says of itself.

row, text = run(path)                            in a new process; writes the row under _build/checked
python -m book.validate FILE NOTEBOOK [KERNEL]   that process: pytest with nbval; writes what it found to FILE

book/colab/run.py makes its rows from the same parts: validate, row_of, write_row.
"""

import ast
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
import pytest

from book.freshness import digest
from book.places import ROOT, ROWS, chapters_named, notebooks
from book.report import Row
from tools.variants import environment as variant

# No progress bars. Waiting threads do not spin, which on a busy machine costs more than the work itself.
QUIET = {"TQDM_DISABLE": "1", "OMP_WAIT_POLICY": "PASSIVE", "LLMCORE_OFFLINE": "1"}

# Evaluated in the kernel after the last cell: where the chapter really ran. Of Colab's stand-in
# (book/colab) it also asks what the stand-in saw.
QUESTION = """__import__("json").dumps((lambda torch: {
    "device": str(device),
    "on": torch.cuda.get_device_name(device) if device.type == "cuda"
          else torch.backends.cpu.get_cpu_capability(),
    "threads": torch.get_num_threads(),
    "torch": torch.__version__,
    "numpy": __import__("numpy").__version__,
    "llmcore": __import__("importlib.metadata").metadata.version("llmcore"),
    "python": __import__("platform").python_version(),
    **getattr(__import__("sys").modules.get("google.colab"), "seen", dict)(),
})(__import__("torch")))"""

VIEW = "application/vnd.jupyter.widget-view+json"


def asserts(source: str) -> int:
    """The number of assert statements and calls of torch.testing.assert_close in the code."""
    nodes = list(ast.walk(ast.parse(source)))
    calls = [n.func for n in nodes if isinstance(n, ast.Call)]
    names = [f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in calls]
    return sum(isinstance(n, ast.Assert) for n in nodes) + names.count("assert_close")


def is_compared(item: Any) -> bool:
    """Whether nbval has a stored output to compare.

    It has none for a cell that prints nothing, only draws, or is tagged to be ignored.
    """
    skipped = item.parent.skip_compare
    shown = (set(o.get("data", ())) | ({"text"} & set(o)) for o in item.cell.outputs)
    # the text beside a picture states only its size
    drawn = lambda kinds: any(kind.startswith("image/") for kind in kinds)
    return bool(item.options["check"]) and any(kinds - set(skipped) for kinds in shown if not drawn(kinds))


def shown(outputs: list[Any]) -> Row:
    """Counts of a cell's displays.

    pictures; widgets of ours; of these the ones with a live view; and views that Colab would not draw, since
    their metadata does not mark them.
    """
    displays = [o for o in outputs if "data" in o]
    widgets = [o for o in displays if '<figure class="llmcore"' in o["data"].get("text/html", "")]
    views = [o for o in displays if VIEW in o["data"]]
    return {
        "pictures": sum(any(kind.startswith("image/") for kind in o["data"]) for o in displays),
        "widgets": len(widgets),
        "live": sum(VIEW in o["data"] for o in widgets),
        "unmarked": sum("colab" not in o["metadata"].get(VIEW, {}) for o in views),
    }


class Recorder:
    """A pytest plugin that records each cell's outcome and displays, and the kernel's answer to QUESTION."""

    def __init__(self) -> None:
        self.cells: dict[int, Row] = {}
        self.said: Row = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        if report.when == "call" or report.outcome == "failed":
            about = {
                "outcome": report.outcome,
                "seconds": call.duration,
                "compared": is_compared(item),
                "asserts": asserts(item.cell.source),
                "stored": shown(item.cell.outputs),
                "showed": shown(item.test_outputs or []),
            }
            self.cells[item.cell_num] = about
        return report

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item, nextitem):
        kernel = item.parent.kernel
        if nextitem is None and kernel is not None and kernel.is_alive():
            self.said = ask(kernel)
        return (yield)


def ask(kernel: Any) -> Row:
    """The kernel's answer to QUESTION; empty if a cell before it failed or the kernel hangs."""
    sent = kernel.kc.execute("", silent=True, user_expressions={"answer": QUESTION})
    try:
        while (reply := kernel.kc.get_shell_msg(timeout=20))["parent_header"].get("msg_id") != sent:
            pass
    except Empty:
        return {}
    answer = reply["content"].get("user_expressions", {}).get("answer", {})
    return json.loads(ast.literal_eval(answer["data"]["text/plain"])) if answer.get("status") == "ok" else {}


def startup(folder: Path) -> dict[str, str]:
    """A private IPython folder, whose kernels set torch's default device before the first cell."""
    script = folder / "profile_default" / "startup" / "00-device.py"
    script.parent.mkdir(parents=True)
    script.write_text('import torch\ntorch.set_default_device("cpu")\ndel torch\n', encoding="utf-8")
    return {"IPYTHONDIR": str(folder)}


def validate(path: Path, environment: dict[str, str], kernel: str = "") -> Row:
    """Run nbval over a notebook in a new process.

    Returns `cells` and `said` as Recorder has them, pytest's exit `status` and its printed `text`. kernel:
    the name of a kernel specification on the environment's JUPYTER_PATH; "" for that of this Python.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "found.json"
        words = [sys.executable, "-m", "book.validate", str(found), str(path), *([kernel] if kernel else [])]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT)
        told = json.loads(found.read_text(encoding="utf-8")) if found.exists() else {"cells": [], "said": {}}
    return told | {"status": done.returncode, "text": done.stdout + done.stderr}


def row_of(chapter: str, count: int, of: str, told: Row) -> Row:
    """The row of a run, as the report stores it.

    count: the chapter's code cells, including those that nbval never reached. of: the chapter's digest.
    """
    cells, said = told["cells"], told["said"]
    passed = [c for c in cells if c["outcome"] == "passed"]
    whole = told["status"] == 0 and len(passed) == count > 0
    return {
        "chapter": chapter,
        "result": "passed" if whole and said.get("device", "") else "failed",
        "cells": count,
        "passed": len(passed),
        "compared": sum(c["compared"] for c in passed),
        "asserts": sum(c["asserts"] for c in passed),
        "seconds": round(sum(c["seconds"] for c in cells), 1),
        "system": f"{platform.system()} {platform.machine()}",
        "of": of,
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        **said,
    }


def code_cells(path: Path) -> int:
    """The number of code cells."""
    return sum(c.cell_type == "code" for c in nbformat.read(path, as_version=4).cells)


def run(path: Path, device: str | None = None, how: str | None = None, rows: Path = ROWS) -> tuple[Row, str]:
    """Validate a chapter; returns the row and what pytest printed, and writes rows/REPORT/CHAPTER.json.

    device and how default to the variables LLMCORE_DEVICE and LLMCORE_VARIANT. The report is named after the
    device that the kernel says it ran on, so that no report can hold a run on another device.
    """
    device = os.environ.get("LLMCORE_DEVICE", "") if device is None else device
    how = os.environ.get("LLMCORE_VARIANT", "") if how is None else how
    count, of = code_cells(path), digest(path)
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | QUIET | variant(how) | (startup(Path(scratch) / "ipython") if how else {})
        told = validate(path, environment | {"LLMCORE_DEVICE": device})
    row, text = row_of(path.stem, count, of, told), told["text"]
    ran_on = told["said"].get("device", "")
    asked = device.split(":")[0]
    if ran_on and asked and ran_on.split(":")[0] != asked:
        row["result"] = "failed"
        text += f"\nasked for {device}, and the chapter ran on {ran_on}"
    elif not ran_on:
        text += "\nthe kernel did not say on which device it ran: "
        text += "the second cell sets device = llmcore.device.pick()"
    name = "-".join(filter(None, [(ran_on or device or "unknown").split(":")[0], how]))
    write_row(row, rows / name)
    return row, text


def write_row(row: Row, folder: Path) -> None:
    """One file per chapter, which appears complete: workers share no file, and a reader never sees half."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False, encoding="utf-8") as file:
        json.dump(row, file, indent=1)
    os.replace(file.name, folder / f"{row['chapter']}.json")


def two_at_a_time(check: Callable[[Any], tuple[Row, str]], chapters: Iterable[Any]) -> list[bool]:
    """Whether each passed. Prints a line when one ends, and after a failure what pytest printed."""

    def one(chapter: Any) -> bool:
        row, text = check(chapter)
        good = row["result"] == "passed"
        took = f"{row['passed']} of {row['cells']} cells, {row['seconds']} s"
        print(f"{row['result']}: {row['chapter']} ({took})", flush=True)
        print(end="" if good else f"{text[-6000:]}\n", flush=True)
        return good

    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as two:  # each waits for a process of its own
        return list(two.map(one, chapters))


def main(names: list[str], device: str = "", how: str = "") -> int:
    """Validate these chapters, or all of them; then `python -m book report` can commit the rows."""
    try:
        chosen = chapters_named(names) or notebooks()
        variant(how)
    except ValueError as error:
        print(error)
        return 2
    passed = two_at_a_time(lambda path: run(path, device, how), chosen)
    print(f"{sum(passed)} of {len(passed)} chapters passed")
    return int(not all(passed))


def nbval(found: Path, chapter: Path, kernel: str = "") -> int:
    """Run pytest with nbval on a chapter and write what the Recorder saw to `found`; pytest's exit status."""
    recorder = Recorder()
    sanitize = f"--nbval-sanitize-with={ROOT / 'book/nbval_sanitize.cfg'}"
    arguments = ["--nbval", sanitize, "--nbval-cell-timeout=600", "-p", "no:cacheprovider", "-q"]
    arguments += ["-c", os.devnull, f"--rootdir={chapter.parent}", str(chapter)]
    arguments += [f"--nbval-kernel-name={kernel}"] if kernel else []
    status = pytest.main(arguments, plugins=[recorder])
    cells = [recorder.cells[number] for number in sorted(recorder.cells)]
    found.write_text(json.dumps({"cells": cells, "said": recorder.said}), encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(nbval(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
