"""The programs, started as a user starts them."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(program: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    words = [sys.executable, str(ROOT / program), *map(str, arguments)]
    return subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(program: str, *arguments: object, cwd: Path) -> tuple[int, str, str]:
    process = start(program, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err
