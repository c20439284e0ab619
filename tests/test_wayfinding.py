"""README's map is true: it names every folder and module, and nothing else; imports point up in it."""

import re
import subprocess
from pathlib import Path

from test_levels import LEVEL, LEVELS, part_of

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAP = re.search(r"## The map\n.*?```\n(.*?)```", README, re.DOTALL)[1]


def folders() -> set[str]:
    """The top-level folders that belong to the project."""
    listed = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split()
    return {path.split("/")[0] for path in listed if "/" in path}


def modules() -> list[str]:
    """What the map lists below llmcore/, in its order."""
    lines = [line for line in MAP.splitlines() if line.startswith("  ")]
    return [name for line in lines for name in re.split(r" {3,}", line.strip())[0].split()]


def test_the_map_names_every_folder_and_no_other():
    assert {line.split("/")[0] for line in MAP.splitlines() if not line.startswith(" ")} == folders()


def test_the_map_names_every_module_once_and_no_other():
    there = {
        part_of(p) + ("/" if p.parent.name != "llmcore" else "") for p in (ROOT / "llmcore").rglob("*.py")
    } - {"__init__"}
    assert sorted(modules()) == sorted(there)


def test_the_map_follows_the_levels():
    """A reader who goes down the map meets nothing that rests on what comes later."""
    levels = [LEVEL[name.rstrip("/")] for name in modules()]
    assert levels == sorted(levels)
    assert len(LEVELS) == max(levels) + 1


def test_links_of_the_first_pages_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / link).exists(), f"{name} links to {link}"


def test_the_five_files_come_first_in_readme():
    section = re.search(r"## Read these five files first\n(.*?)\n## ", README, re.DOTALL)[1]
    assert len(re.findall(r"^\d\. \[`llmcore/\w+\.py`\]", section, re.MULTILINE)) == 5


def test_paths_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:book|tools|tests|llmcore|chapters|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / path).exists() or "NAME" in path or path.startswith("chapters/checked"), path
    targets = set(re.findall(r"`make ([\w-]+)", text + README))
    rules = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets <= {target for rule in rules for target in rule.split()}
