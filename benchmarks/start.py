"""Seconds that whole processes take to the first result: train.py, sample.py, and the tutorial's Keras script.

    peers/bin/python benchmarks/start.py

All train `tutorial_conv` for one epoch on the 8,000 images of the bundled subset; the clock stops at the line that
reports the epoch. "First" starts have an empty compilation cache, "second" ones that of the first. Processes take
turns. Prints a table and writes start.json.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import tyro
from processes import lines_of
from rich.console import Console
from rich.table import Table

from flax_vae.data.sources.fashion_mnist import from_subset

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    rounds: int = 5


def seconds_until(line: str, command: list[str], cache: Path) -> float:
    """Seconds from the start of a process to the first line that begins so; "" is the process's end."""
    began, reached = time.perf_counter(), 0.0
    for seconds, printed in lines_of(*command, XDG_CACHE_HOME=str(cache)):
        if line and printed.startswith(line):
            reached = reached or seconds
    return reached or time.perf_counter() - began


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    found: dict[str, list[float]] = {}
    for turn in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            train_set, test_set = (from_subset(split, "for this benchmark") for split in ("train", "test"))
            np.savez(folder / "images.npz", x_train=train_set.x[..., 0], x_test=test_set.x[..., 0])
            train = [str(ROOT / "train.py"), "--preset", "tutorial_conv", "--epochs", "1"]
            train += ["--dataset", str(folder / "images.npz"), "--out"]
            sample = [str(ROOT / "sample.py"), str(folder / "first")]
            sample += ["--out", str(folder / "samples.png"), "--overwrite"]
            keras = [str(HERE / "contenders" / "keras_script.py"), str(folder / "images.npz"), "1"]
            commands = {
                "Keras script, first epoch": ("1 ", keras),
                "train.py, first epoch, first start": ("1/1 ", [*train, str(folder / "first")]),
                "train.py, first epoch, second start": ("1/1 ", [*train, str(folder / "second")]),
                "sample.py, first start": ("", sample),
                "sample.py, second start": ("", sample),
            }
            for title, (line, command) in commands.items():
                found.setdefault(title, []).append(seconds_until(line, command, folder / "cache"))
                print(f"round {turn}  {title:36} {found[title][-1]:.1f} s", file=sys.stderr, flush=True)
    table = Table("", "seconds, median", "all")
    for title, seconds in found.items():
        table.add_row(title, f"{median(seconds):.1f}", ", ".join(f"{each:.1f}" for each in seconds))
    Console().print(table)
    report = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "seconds": found}
    (HERE / "start.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
