"""The live home: a widget in JupyterLab with a real kernel; a choice in the page reaches Python and back."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

pytestmark = pytest.mark.slow

CELLS = [
    "import numpy as np\nfrom llmcore.widgets.matrix import MatrixInspector\n"
    "w = MatrixInspector(np.arange(9.0).reshape(3, 3), 'A')\nw",
    "print('python sees', w.selection)",
    "w.selection = [2, 1]\nprint('python has set it')",
    "from llmcore.widgets.collective import CollectiveSimulator\nc = CollectiveSimulator()\nc",
    "print('python sees step', c.step)",
    "c.step = 4\nprint('python has set the step')",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server of its own, ended when the tests end."""
    folder = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "live.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token=t",
        f"--ServerApp.root_dir={folder}", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None", "--LabApp.extension_manager=readonly",
    ]  # fmt: skip
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "spaces"),
    }
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, env=environment
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api?token=t", timeout=2)
                break
            time.sleep(0.5)
        else:
            raise AssertionError((folder / "log").read_text()[-2000:])
        yield f"{address}/lab/tree/live.ipynb?token=t"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def test_traits_flow_both_ways(lab, browser):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(lab)
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    cells.first.wait_for(timeout=60_000)
    page.get_by_text("| Idle").wait_for(timeout=60_000)  # the kernel is there

    def run(n: int):
        cells.nth(n).locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")

    run(0)
    widget = page.locator("figure.llmcore.ll-live").first
    widget.wait_for(timeout=60_000)
    widget.locator("td[data-r='1'][data-c='2']").click()
    assert "A[1, 2] = 5" in widget.locator(".ll-readout").inner_text()
    run(1)
    page.get_by_text("python sees [1, 2]").wait_for(timeout=20_000)
    run(2)
    page.get_by_text("python has set it", exact=True).wait_for(timeout=20_000)
    page.wait_for_function("document.querySelector('td.ll-cursor')?.dataset.r === '2'", timeout=20_000)
    assert widget.locator("td.ll-cursor").get_attribute("data-c") == "1"
    assert "A[2, 1] = 7" in widget.locator(".ll-readout").inner_text()
    run(3)
    ring = page.locator("figure.llmcore.ll-live").nth(1)
    ring.wait_for(timeout=60_000)
    ring.locator("button").filter(has_text="→").click()
    run(4)
    page.get_by_text("python sees step 1", exact=True).wait_for(timeout=20_000)
    run(5)
    page.get_by_text("python has set the step", exact=True).wait_for(timeout=20_000)
    page.wait_for_function(
        "[...document.querySelectorAll('figure.llmcore')].some(f => f.textContent.includes('4 of 6'))",
        timeout=20_000,
    )
    page.close()
