"""The programs, started as a user starts them."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flax_vae import Config

ROOT = Path(__file__).parents[1]


def words_of(config: Config, epochs: int | None = None) -> list[str]:
    """The flags of a small training, of another number of epochs if one is given."""
    words = f"--preset tutorial_dense --dataset {config.dataset} --epochs {epochs or config.epochs} --batch-size 50"
    return [*words.split(), "--learning-rate", "3e-3"]


def start(program: str | Path, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    words = [sys.executable, str(ROOT / program), *map(str, arguments)]
    return subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def within(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """None of them outlives the block, however it ends."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            with process:
                pass  # closes what it writes to, and waits


def call(program: str, *arguments: object, cwd: Path) -> tuple[int, str, str]:
    process = start(program, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def free_address() -> str:
    """Where nothing listens yet."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start_together(count: int, program: str | Path, *arguments: object, cwd: Path) -> list[subprocess.Popen[str]]:
    """Several processes of one training; the program finds out which one it is from its last flags."""
    flags = ["--coordinator", free_address(), "--num-processes", count, "--process-id"]
    return [start(program, *arguments, *([*flags, i] if count > 1 else []), cwd=cwd) for i in range(count)]


def together(count: int, program: str | Path, *arguments: object, cwd: Path) -> list[tuple[int, str, str]]:
    processes = start_together(count, program, *arguments, cwd=cwd)
    said = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]
