"""Other arithmetic on the same machine: run code as an older or another processor would.

python -m tools.variants NAME COMMAND ...   run the command that way; nothing if this processor cannot
"""

import functools
import os
import platform
import subprocess
import sys

# ATen's kernels by the widest instructions that they use; a processor has all up to its own
CAPABILITIES = ("default", "avx2", "avx512")
NAMES = ("", *CAPABILITIES, "mkl", "other")


class NotHere(ValueError):
    """This processor does not have the instructions."""


def capability() -> str:
    """The widest of CAPABILITIES that ATen uses in this process."""
    import torch

    found = torch.backends.cpu.get_cpu_capability().lower()
    return found if found in CAPABILITIES else "default"


@functools.cache
def environment(name: str) -> dict[str, str]:
    """The environment variables of a way to run.

    ""                      as the machine is
    default, avx2, avx512   torch's kernels of that width
    mkl                     MKL's matrix products in an order of additions that is the same on every processor
    other                   like a second machine: another number of threads, and an older processor's code in
                            torch (ATen, MKL, oneDNN) and numpy (its own loops, OpenBLAS), all of which add in
                            another order

    An output or a test that differs under one of these depends on the machine. Raises ValueError for another
    name, and NotHere if this processor cannot run that way.
    """
    if name not in NAMES:
        raise ValueError(
            f"VARIANT={name!r} is none of {', '.join(NAMES[1:])}: use one of them, or leave it out"
        )
    if name in CAPABILITIES:
        widest = capability()
        if CAPABILITIES.index(name) > CAPABILITIES.index(widest):
            raise NotHere(f"VARIANT={name}: torch uses nothing wider than {widest} on this processor")
        return {"ATEN_CPU_CAPABILITY": name}
    if name == "mkl":
        return {"MKL_CBWR": "COMPATIBLE"}
    return _other() if name else {}


def _other() -> dict[str, str]:
    threads = "1" if (os.cpu_count() or 1) > 1 else "2"
    out = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    wide = capability() == "avx512"
    if platform.machine() in ("x86_64", "AMD64"):
        out["ATEN_CPU_CAPABILITY"] = "avx2" if wide else "default"
        out["ONEDNN_MAX_CPU_ISA"] = "AVX2" if wide else "SSE41"
        out["MKL_CBWR"] = "AVX2" if wide else "COMPATIBLE"
        out["OPENBLAS_CORETYPE"] = "Haswell" if wide else "Nehalem"
    try:
        from numpy._core import _multiarray_umath as loops
    except ImportError:  # numpy 1.26
        from numpy.core import _multiarray_umath as loops
    # compiled loops in inductor's cache are for the newer processor and would compute wrong numbers
    out["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    features = [f for f in loops.__cpu_dispatch__ if loops.__cpu_features__.get(f)]
    out["NPY_DISABLE_CPU_FEATURES"] = " ".join(features)
    return out


def main(name: str, command: list[str]) -> int:
    try:
        variables = environment(name)
    except NotHere as error:
        print(f"{error}: nothing was run")
        return 0
    except ValueError as error:
        print(error)
        return 2
    print(f"VARIANT={name}:", " ".join(f"{key}={value}" for key, value in variables.items()), flush=True)
    return subprocess.run(command, env=os.environ | variables).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
