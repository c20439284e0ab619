"""Other arithmetic on the same processor: what each variant sets, and how a wrong one is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import variants
from tools.variants import CAPABILITIES, NAMES, NotHere, environment

ROOT = Path(__file__).resolve().parents[1]
CODE = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"


def test_a_variant_that_is_none_is_said():
    with pytest.raises(ValueError, match="VARIANT='another' is none of default, avx2, avx512, mkl, other"):
        environment("another")


@pytest.mark.parametrize("widest", CAPABILITIES)
def test_what_the_processor_lacks_is_refused_and_nothing_is_run(widest, monkeypatch, capsys):
    monkeypatch.setattr(variants, "capability", lambda: widest)
    environment.cache_clear()
    for name in CAPABILITIES:
        if CAPABILITIES.index(name) <= CAPABILITIES.index(widest):
            assert environment(name) == {"ATEN_CPU_CAPABILITY": name}
        else:
            with pytest.raises(NotHere, match=f"nothing wider than {widest}"):
                environment(name)
            assert variants.main(name, [sys.executable, "-c", "raise SystemExit(1)"]) == 0
            assert "nothing was run" in capsys.readouterr().out
    environment.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[1:])
def test_torch_really_runs_that_way(name):
    try:
        wanted = environment(name).get("ATEN_CPU_CAPABILITY")
    except NotHere as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "tools.variants", name, sys.executable, "-c", CODE]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    said, *_, used = done.stdout.splitlines()
    assert said.startswith(f"VARIANT={name}: ")
    assert used == (wanted or variants.capability())


def test_the_status_of_the_command_is_kept():
    assert variants.main("default", [sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert variants.main("another", [sys.executable, "-c", "raise SystemExit(0)"]) == 2
