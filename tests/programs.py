"""The programs, started as a user starts them."""

import subprocess
import sys
from pathlib import Path

from flax_vae import Config

ROOT = Path(__file__).parents[1]


def words_of(config: Config, epochs: int | None = None) -> list[str]:
    """The flags of a small training, of another number of epochs if one is given."""
    words = f"--preset tutorial_dense --dataset {config.dataset} --epochs {epochs or config.epochs} --batch-size 50"
    return [*words.split(), "--learning-rate", "3e-3"]


def start(program: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    words = [sys.executable, str(ROOT / program), *map(str, arguments)]
    return subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(program: str, *arguments: object, cwd: Path) -> tuple[int, str, str]:
    process = start(program, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err
