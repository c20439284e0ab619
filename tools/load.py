"""Tokenise and train on texts of many megabytes in a process whose memory is watched.

python -m tools.load [MB ...]

For each size a file is written, a vocabulary learned from it in parts (BPETokenizer.train_file), the text
encoded to token files in pieces, and a small model trained from them (python -m llmcore train). The seconds
and the peak memory of each stage are printed; `measure` returns them.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from llmcore import corpus

ROOT = Path(__file__).resolve().parents[1]
MB = 1 << 20
Stages = dict[str, list[float]]  # stage -> [seconds, peak of its own memory, peak resident size], in bytes
STEPS = 3
SMALL = ["n_layers=1", "d_model=32", "n_heads=2", "d_ff=48", "context_length=64"]


def write_text(path: Path, size: int) -> None:
    """Write `size` bytes or more: fables and generated stories in random order, numbered, each with END."""
    random = np.random.default_rng(0)
    texts = [f.text for f in corpus.fables()] + [s.text for s in corpus.stories(300, seed=1)]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while file.tell() < size:
            for i in random.permutation(len(texts)):
                file.write(f"{random.integers(1000)}. {texts[i]}\n{corpus.END}\n")


class Watch(threading.Thread):
    """Samples the process's memory fifty times per second: peaks of its own and of its resident size.

    The resident size counts mapped files too. The system takes back the pages of a mapped token file whenever
    others need room, so they are no memory that a text costs.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_time, self.own, self.resident, self.over = time.monotonic(), 0, 0, threading.Event()

    def run(self) -> None:
        process = psutil.Process()
        while True:
            info = process.memory_info()
            self.resident = max(self.resident, info.rss)
            self.own = max(self.own, info.rss - getattr(info, "shared", 0))
            if self.over.wait(0.02):
                return

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()
        self.seconds = time.monotonic() - self.start_time


def child(folder: Path) -> None:
    """Run the stages in this process and print their Stages as JSON."""
    from llmcore.__main__ import main
    from llmcore.tokenizer import BPETokenizer

    text, stages = folder / "text.txt", {}
    with Watch() as stages["vocabulary"]:
        BPETokenizer.train_file(text, 400, [corpus.END], chunk_bytes=MB).save(folder / "t.json")
    options = ["--tokenizer", str(folder / "t.json"), "--out", str(folder / "run"), "--warmup", "1"]
    options += ["--steps", str(STEPS), "--checkpoint-every", "0", "--eval-every", "0", "--batch-size", "8"]
    options += ["--set", *SMALL]
    with Watch() as stages["tokens and training"]:
        assert main(["train", "--corpus", str(text), *options]) == 0
    print(json.dumps({stage: [w.seconds, w.own, w.resident] for stage, w in stages.items()}))


def measure(size: int) -> Stages:
    """The Stages of a new process that reads a text of `size` bytes."""
    with tempfile.TemporaryDirectory(prefix="llmcore-load-") as name:
        write_text(Path(name) / "text.txt", size)
        env = os.environ | {"OMP_NUM_THREADS": "1", "LLMCORE_DEVICE": "cpu", "MALLOC_ARENA_MAX": "1"}
        command = [sys.executable, "-m", "tools.load", "--child", name]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def grown(small: Stages, large: Stages, added: float) -> list[str]:
    """The stages that took more memory for a text `added` bytes longer, in words.

    A program that keeps the text grows by `added` at least, and by a multiple of it where it keeps strings or
    ids. Three quarters of it are let pass: pieces of text exist several times while they are decoded, cut and
    hashed, and where the heap puts those copies moves the peak by 10 to 20 MB, whatever the text's size.
    The resident size is not judged, since it counts the mapped token files.

    >>> grown({"tokens": [1.0, 200 * MB, 300 * MB]}, {"tokens": [5.0, 220 * MB, 340 * MB]}, 40 * MB)
    []
    >>> grown({"tokens": [1.0, 200 * MB, 300 * MB]}, {"tokens": [5.0, 240 * MB, 340 * MB]}, 40 * MB)
    ['tokens: 200 MB of its own became 240 MB']
    """
    return [
        f"{stage}: {own / MB:.0f} MB of its own became {large[stage][1] / MB:.0f} MB"
        for stage, (_, own, _resident) in small.items()
        if large[stage][1] - own > 0.75 * added
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]))
    else:
        found, sizes = [], [int(size) for size in sys.argv[1:] or ("10", "50")]
        for megabytes in sizes:
            found.append(measure(megabytes * MB))
            for stage, (seconds, own, resident) in found[-1].items():
                memory = f"at most {own / MB:4.0f} MB of its own, {resident / MB:4.0f} MB with mapped files"
                print(f"{megabytes:4} MB of text  {stage:20} {seconds:6.1f} s  {memory}", flush=True)
        sys.exit("\n".join(grown(found[0], found[-1], (sizes[-1] - sizes[0]) * MB)) or 0)
