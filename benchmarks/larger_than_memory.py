"""Train on more images than the memory holds, and compare the speed with that of images in memory.

    python benchmarks/larger_than_memory.py            Linux, with the right to make a control group

Makes 4.4 GB of smooth 64x64x3 images, prepares them, and trains on them for an epoch, each by a program in a control
group that may have 2 GB; one that takes more is ended by the system. Then models train in turns on a part of them: from
memory, and from disk within the limit. An epoch's seconds are those of whole epochs after the first, with their
evaluations. Peaks are of the resident memory, libraries included. Prints and writes larger_than_memory.json.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tyro

_SIDE, _COARSE, _AT_ONCE = 64, 8, 2000
_COMMAND = "import sys; from flax_vae.cli.main import main; sys.exit(main(sys.argv[1:]))"
# However small the set is.
_ON_DISK = f"import flax_vae.data.sources.prepared as prepared; prepared._MOST_IN_MEMORY = 0; {_COMMAND}"


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    images: int = 360_000
    """Of the large set."""
    preset: str = "tutorial_conv"
    """That trains on the large set."""
    compared: int = 20_000
    """Of the set that is trained on in turns."""
    compared_presets: tuple[str, ...] = ("tutorial_conv", "tutorial_dense")
    """That train on it."""
    rounds: int = 3
    epochs: int = 2
    """Of each of these trainings."""
    limit: int = 2_000_000_000
    """Bytes that a program may have."""
    folder: Path | None = None
    """Where the sets are made; by default a temporary folder, which needs 10 GB."""


@contextmanager
def control_group(limit: int) -> Iterator[Path]:
    """The file to which a process writes its number to be limited."""
    groups = Path("/sys/fs/cgroup")
    group = (groups / "memory" if (groups / "memory").is_dir() else groups) / f"flax_vae-{os.getpid()}"
    group.mkdir()
    try:
        name = "memory.limit_in_bytes" if group.parent != groups else "memory.max"
        (group / name).write_text(str(limit))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


def make(path: Path, count: int) -> None:
    """Write smooth images in colour: 8x8 random ones, each brought to 64x64 along straight lines."""
    points = np.linspace(0, _COARSE - 1, _SIDE)
    lines = np.maximum(0, 1 - abs(points[:, None] - np.arange(_COARSE))).astype(np.float32)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, _SIDE, _SIDE, 3))
    for start in range(0, count, _AT_ONCE):
        shape = (min(_AT_ONCE, count - start), 3, _COARSE, _COARSE)
        coarse = np.random.default_rng(start).random(shape, np.float32)
        images[start : start + _AT_ONCE] = np.moveaxis(255 * (lines @ coarse @ lines.T), 1, -1).astype(np.uint8)


def call(words: Sequence[object], group: Path | None) -> tuple[int, str, dict[str, float]]:
    """A command's exit code, its last line on stderr, its seconds, those of its cores, and its peak memory in MB."""

    def enter() -> None:
        if group is not None:
            group.write_text(str(os.getpid()))

    with tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        program = [sys.executable, *map(str, words)]
        process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=errors, preexec_fn=enter)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        last = (errors.read().splitlines() or [""])[-1]
    cores = used.ru_utime + used.ru_stime
    return process.returncode, last, {"seconds": seconds, "core_seconds": cores, "peak_mb": used.ru_maxrss * 1024 / 1e6}


def succeed(words: Sequence[object], group: Path | None) -> dict[str, float]:
    """What a command takes that has to succeed."""
    code, line, found = call(["-c", _COMMAND if group is None else _ON_DISK, *words], group)
    if code:
        raise SystemExit(f"{words} ended with exit code {code}: {line}")
    return found


def train(preset: str, data: Path, epochs: int, out: Path, group: Path | None) -> dict[str, float]:
    """What a training takes and reports."""
    shutil.rmtree(out, ignore_errors=True)
    words = ["train", "--preset", preset, "--dataset", data, "--epochs", epochs, "--latent-dim", 16, "--out", out]
    found = succeed(words, group)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    first, last = records[0], records[-1]
    if epochs > 1:
        found["epoch_seconds"] = (last["seconds"] - first["seconds"]) / (epochs - 1)
    return found | {name: last[name] for name in ("images_per_second", "data_wait", "test_loss")}


def measure(arguments: Arguments, folder: Path, group: Path) -> dict[str, Any]:
    """All figures."""
    large, small, run = folder / "large", folder / "small", folder / "run"
    for prepared, count in ((large, arguments.images), (small, arguments.compared)):
        make(prepared.with_suffix(".npy"), count)
    size = large.with_suffix(".npy").stat().st_size
    code, refusal, _ = call(["-m", "flax_vae", "train", "--dataset", large.with_suffix(".npy")], group)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "bytes": size,
        "limit": arguments.limit,
        "array_in_memory": call(["-c", f"import numpy; numpy.ones({size}, 'u1')"], group)[0],
        "train_in_memory": [code, refusal.replace(f"{folder}/", "")],
        "prepare": succeed(["prepare", large.with_suffix(".npy"), large], group),
        "train": train(arguments.preset, large, 1, run, group),
    }
    print(json.dumps(report, indent=1), flush=True)
    succeed(["prepare", small.with_suffix(".npy"), small], group)
    for preset in arguments.compared_presets:
        rounds = []
        for _ in range(arguments.rounds):
            parts = {"memory": None, "disk": group}
            rounds.append({name: train(preset, small, arguments.epochs, run, where) for name, where in parts.items()})
            print(preset, json.dumps(rounds[-1]), flush=True)
        report[f"compared, {preset}"] = {"rounds": rounds}
        for name in ("epoch_seconds", "core_seconds"):
            ratios = [each["memory"][name] / each["disk"][name] for each in rounds]
            report[f"compared, {preset}"] |= {f"{name}, memory over disk": {"median": median(ratios), "all": ratios}}
    return report


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, control_group(arguments.limit) as group:
        report = measure(arguments, Path(folder), group)
    print(json.dumps(report, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
