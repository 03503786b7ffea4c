"""Whole processes, as a user starts them, on a clock."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator


def lines_of(*command: object, **variables: str) -> Iterator[tuple[float, str]]:
    """Each line that a Python program prints, with the seconds since its start; `variables` are its environment's."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"} | variables
    began = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            yield time.perf_counter() - began, line
        if process.wait():
            errors.seek(0)
            raise SystemExit(f"{command} ended with exit code {process.returncode}: {errors.read()[-2000:]}")
