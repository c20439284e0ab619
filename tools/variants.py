"""Other arithmetic on the same machine: the same code as an older or another processor would run it.

python -m tools.variants NAME COMMAND ...   run the command that way; where this processor cannot, say so and run nothing
"""

import functools
import os
import platform
import subprocess
import sys

# ATen's kernels by the widest instructions that they use, in order; a processor that has one has those before
# it
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
    mkl                     MKL's products in the order that every processor can keep
    other                   a second machine in one: another count of threads, and an older processor's code in torch (ATen, MKL,
                            oneDNN) and in numpy (its own loops, OpenBLAS), all of which add in another order

    An output or a test that differs under one of these depends on the machine. Raises ValueError for another
    name, and NotHere where this processor cannot run that way.
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
        out |= {
            "ATEN_CPU_CAPABILITY": "avx2" if wide else "default",
            "ONEDNN_MAX_CPU_ISA": "AVX2" if wide else "SSE41",
        }
        out |= {
            "MKL_CBWR": "AVX2" if wide else "COMPATIBLE",
            "OPENBLAS_CORETYPE": "Haswell" if wide else "Nehalem",
        }
    try:
        from numpy._core import _multiarray_umath as loops
    except ImportError:  # numpy 1.26
        from numpy.core import _multiarray_umath as loops
    out["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = (
        "1"  # it would run loops that it compiled for the newer processor, and be wrong
    )
    out["NPY_DISABLE_CPU_FEATURES"] = " ".join(
        f for f in loops.__cpu_dispatch__ if loops.__cpu_features__.get(f)
    )
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
