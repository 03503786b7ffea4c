"""Seconds from the start of the process until `tutorial_conv` is as good as the tutorial's 50 epochs of Keras.

    peers/bin/python benchmarks/time_to_loss.py

`train.py` runs as a user runs it, on all 60,000 images, evaluates all 10,000 test images after each epoch, and is timed
at the line that reports a test loss of 263.1 or less; compilations are kept from an earlier start. The Keras script
runs for its first epochs only: its 50 epochs are the first one plus 49 times the mean of the others. Prints a table and
writes time_to_loss.json.
"""

import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from processes import lines_of
from rich.console import Console
from rich.table import Table

from flax_vae import load_images

HERE = Path(__file__).parent
TARGET = 263.1


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: tuple[int, ...] = (1, 2)
    keras_epochs: int = 3


def train(folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    """The last test loss with its seconds, and the seconds until the target was reached, if it was."""
    flags = ("--preset", "tutorial_conv", "--epochs", epochs, "--seed", seed, "--out", folder / f"{epochs}-{seed}")
    reached, loss, end = None, float("nan"), 0.0
    for seconds, line in lines_of(HERE.parent / "train.py", *flags):
        if found := re.match(r" *\d+/\d+ +[\d.]+ +([\d.]+) ", line):
            loss, end = float(found[1]), seconds
            if loss <= TARGET and reached is None:
                reached = seconds
    return {"epochs": epochs, "seed": seed, "test_loss": loss, "seconds": end, "seconds_to_target": reached}


def keras(folder: Path, epochs: int) -> float:
    """Seconds of the script's 50 epochs, from those of its first ones."""
    train_set, test_set = (load_images("fashion_mnist", split) for split in ("train", "test"))
    np.savez(folder / "images.npz", x_train=train_set.x[..., 0], x_test=test_set.x[..., 0])
    script = HERE / "contenders" / "keras_script.py"
    ends = [seconds for seconds, line in lines_of(script, folder / "images.npz", epochs) if line[0].isdigit()]
    return ends[0] + 49 * (ends[-1] - ends[0]) / (epochs - 1)


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder / "first", 1, 0)  # compiles what the others find in the cache
        rows = [train(folder, epochs, seed) for epochs in arguments.epochs for seed in arguments.seeds]
        theirs = keras(folder, arguments.keras_epochs)
    table = Table("train.py --preset tutorial_conv", "test loss", "seconds", "to 263.1", "Keras's 50 epochs take")
    for row in rows:
        reached = row["seconds_to_target"]
        numbers = f"{row['test_loss']:.2f}", f"{row['seconds']:.1f}", f"{reached:.1f}" if reached else "not reached"
        ratio = f"{theirs / reached:.0f} times as long" if reached else ""
        table.add_row(f"--epochs {row['epochs']} --seed {row['seed']}", *numbers, ratio)
    Console().print(table)
    report = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "keras_seconds": theirs, "rows": rows}
    (HERE / "time_to_loss.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
