"""Start the programs as users start them."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from flax_vae import Config

ROOT = Path(__file__).parents[1]
SMALL = "tutorial_dense(features=(16,))"  # a preset whose steps are short
TRAIN_ONLY = "tests/train_only.py"


def words_of(config: Config, epochs: int | None = None) -> list[str]:
    """Return the flags of a small training, with another number of epochs if given."""
    words = f"--preset {config.preset} --dataset {config.dataset} --epochs {epochs or config.epochs} --batch-size 50"
    return [*words.split(), "--learning-rate", "3e-3"]


def moments(random: np.random.Generator, times: int, first: float, last: float) -> np.ndarray:
    """Return moments at which to send signals: a random one in each of as many equal parts, in random order."""
    return first + (last - first) * random.permutation(np.arange(times) + random.random(times)) / times


def start(program: str | Path, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    words = [sys.executable, str(ROOT / program), *map(str, arguments)]
    return subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def within(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the processes at the end of the block, also after an exception."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            with process:
                pass  # close the pipes and wait


def call(program: str, *arguments: object, cwd: Path) -> tuple[int, str, str]:
    process = start(program, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def wait_for_an_epoch(out: Path, *processes: subprocess.Popen[str]) -> None:
    """Wait until one more epoch of a run, or of a member, is recorded, or until a process ends."""

    def recorded() -> int:
        return sum(path.stat().st_size for path in out.rglob("metrics.jsonl"))

    before = recorded()
    while recorded() == before and all(process.poll() is None for process in processes):
        time.sleep(0.01)


def free_address() -> str:
    """Return the address of an unused local port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start_together(count: int, program: str | Path, *arguments: object, cwd: Path) -> list[subprocess.Popen[str]]:
    """Start several processes of one training; the last flags give each its number."""
    flags = ["--coordinator", free_address(), "--num-processes", count, "--process-id"]
    return [start(program, *arguments, *([*flags, i] if count > 1 else []), cwd=cwd) for i in range(count)]


def together(count: int, program: str | Path, *arguments: object, cwd: Path) -> list[tuple[int, str, str]]:
    processes = start_together(count, program, *arguments, cwd=cwd)
    said = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]
