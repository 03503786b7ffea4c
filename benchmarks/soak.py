"""Whether anything grows in a process that trains, is interrupted and goes on for an hour.

    python benchmarks/soak.py

One process does by turns what days of work do: short trainings from the start to the end, each stopped somewhere by
SIGTERM and resumed, sampled from and evaluated; then a long one, which is stopped and resumed every half minute. There
are four turns. A thread looks at the process every few seconds: its resident memory, open files and threads, and what
lies in the run directory and in the folder of temporary files. Prints and writes soak.json, and draws docs/soak.png.
"""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro

from flax_vae import Config, Run, evaluate, fit, load_images, load_run, resume, sample, use_machine
from flax_vae.evaluation.plan import Plan
from flax_vae.fitting.loop import Interrupted
from flax_vae.runs.directory import RunDirectory

Look = dict[str, float]
TURNS = 4


@dataclass(frozen=True)
class Arguments:
    """What to do, and for how long."""

    minutes: float = 60.0
    long_seconds: float = 30.0
    """Between two interruptions of a long training."""
    every: float = 5.0
    """Seconds between two looks at the process."""


class Watch(threading.Thread):
    """Looks at the process until it is told to stop."""

    def __init__(self, runs: Path, temporary: Path, every: float) -> None:
        """Begin at once."""
        super().__init__(daemon=True)
        self.runs, self.temporary, self.every = runs, temporary, every
        self.began, self.looks, self.stopped = time.monotonic(), list[Look](), threading.Event()
        self.start()

    def run(self) -> None:
        """Look, and wait."""
        while not self.stopped.wait(self.every):
            self.looks.append(self.look())

    def look(self) -> Look:
        """The process at this moment."""
        words = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        kept = below(self.runs)
        return {
            "minutes": round((time.monotonic() - self.began) / 60, 2),
            "megabytes": round(int(words["VmRSS"].split()[0]) / 1024, 1),
            "open_files": len(os.listdir("/proc/self/fd")),
            "threads": int(words["Threads"]),
            "run_megabytes": round(size_of(kept) / 1e6, 2),
            "run_files": len(kept),
            "checkpoints": sum(path.parent.name == "checkpoints" for path in kept),
            "temporary_files": len(below(self.temporary)),
        }


def below(folder: Path) -> list[Path]:
    """Files and folders in a folder, in which others come and go meanwhile."""
    return [Path(where, name) for where, folders, files in os.walk(folder) for name in (*folders, *files)]


def size_of(paths: list[Path]) -> int:
    """Bytes of files, but of those that have gone since they were listed."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Send SIGTERM to this process after some seconds, unless the block has ended before."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def train(
    start: Callable[[], Run], directory: Path, seconds: Callable[[], float], end: float
) -> tuple[Run | None, int]:
    """Train until it ends, or until the time is up, interrupted again and again; the run, and how often that was."""
    interrupted = 0
    while True:
        try:
            with stopped_after(seconds()):
                return (resume(directory) if directory.exists() else start()), interrupted
        except Interrupted:
            interrupted += 1
            if time.monotonic() > end:
                return None, interrupted


def main(arguments: Arguments) -> None:
    """Soak, print, write and draw."""
    use_machine()
    signal.signal(signal.SIGTERM, lambda *_: None)  # of a training that has just ended
    end = time.monotonic() + 60 * arguments.minutes
    random, counts = np.random.default_rng(0), {"short": 0, "long": 0, "interrupted": 0, "epochs": 0}
    with tempfile.TemporaryDirectory() as folder:
        runs, temporary = Path(folder, "runs"), Path(folder, "temporary")
        runs.mkdir()
        temporary.mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
        np.savez(Path(folder, "few.npz"), **few_images())
        few = Config(preset="tutorial_dense", dataset=f"{folder}/few.npz", epochs=3, batch_size=50)
        endless = replace(few, dataset="fashion_mnist", epochs=10**6, batch_size=128, schedule="constant")
        watch = Watch(runs, temporary, arguments.every)

        def short(until: float) -> None:
            directory = runs / "short"
            done, times = train(lambda: fit(few, directory), directory, lambda: random.uniform(0.5, 4.0), until)
            if done is not None:
                jax.block_until_ready(sample(done.model, load_run(directory).params, jax.random.key(0), 10))
                evaluate(directory, Plan(num_samples=(10,), num_images=50))
                counts["short"] += 1
            finish(directory, times)

        def long(until: float) -> None:
            directory = runs / "long"
            _, times = train(lambda: fit(endless, directory), directory, lambda: arguments.long_seconds, until)
            counts["long"] += 1
            finish(directory, times)

        def finish(directory: Path, times: int) -> None:
            counts["epochs"] += len(RunDirectory(directory).metrics())
            counts["interrupted"] += times
            shutil.rmtree(directory)

        for turn in range(TURNS):
            began, length = time.monotonic(), (end - time.monotonic()) / (TURNS - turn)
            while time.monotonic() < began + length / 2:
                short(began + length)
            long(began + length)
        watch.stopped.set()
        watch.join()
    report: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "minutes": arguments.minutes} | counts
    report |= {"growth": growth(watch.looks)}
    print(json.dumps(report, indent=1))
    report |= {"looks": {name: [look[name] for look in watch.looks] for name in watch.looks[0]}}
    here = Path(__file__)
    here.with_suffix(".json").write_text(json.dumps(report) + "\n")
    draw(watch.looks, here.parents[1] / "docs" / "soak.png")


def few_images() -> dict[str, Any]:
    """600 training and 100 test images with labels."""
    arrays: dict[str, Any] = {}
    for split, count in (("train", 600), ("test", 100)):
        data = load_images("fashion_mnist", split)  # type: ignore[arg-type]
        arrays |= {f"x_{split}": data.x[:count], f"y_{split}": data.labels[:count]}  # type: ignore[index]
    return arrays


def growth(looks: list[Look]) -> dict[str, dict[str, float]]:
    """Of each number the median and the largest value, in the second and in the last turn."""
    found: dict[str, dict[str, float]] = {}
    turns = {"second": looks[len(looks) // TURNS : 2 * len(looks) // TURNS], "last": looks[-len(looks) // TURNS :]}
    for name in list(looks[0])[1:]:
        found[name] = {}
        for which, turn in turns.items():
            values = [look[name] for look in turn]
            found[name] |= {f"{which} median": median(values), f"{which} largest": max(values)}
    return found


def draw(looks: list[Look], path: Path) -> None:
    """A panel for each thing that might grow."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 5), layout="constrained", sharex=True)
    shown = {
        "resident memory, MB": ("megabytes",),
        "of the process": ("threads", "open_files"),
        "run directory, MB": ("run_megabytes",),
        "on disk": ("checkpoints", "temporary_files"),
    }
    minutes = [look["minutes"] for look in looks]
    for panel, (title, names) in zip(panels.flat, shown.items(), strict=True):
        for name in names:
            panel.plot(minutes, [look[name] for look in looks], lw=0.8, label=name.replace("_", " "))
        panel.set_title(title, loc="left")
        panel.set_ylim(bottom=0)
        if len(names) > 1:
            panel.legend(frameon=False)
    for panel in panels[1]:
        panel.set_xlabel("minutes")
    figure.savefig(path, dpi=72)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
