"""flax_vae against its peers on this machine: training and decoding, in turns, as ratios.

    python -m venv peers && peers/bin/pip install '.[bench]'
    peers/bin/python benchmarks/speed.py

Every contender is a process of its own that starts from the same parameters and trains on the same batches. They take
turns, round after round, so that a slow minute of the machine meets all of them. A figure is the median over the
rounds; a ratio is the median of the ratios within each round. Prints a table for each task and writes speed.json.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import tyro
from arithmetic import macs
from flax.traverse_util import flatten_dict
from rich.console import Console
from rich.table import Table

from flax_vae import init, load_images
from flax_vae.presets import PRESETS, channel_means

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "contenders"))
from task import Task  # noqa: E402

CONTENDERS: dict[str, tuple[str, dict[str, str]]] = {
    "flax_vae": ("flax_vae_", {}),
    "plain Flax": ("plain_flax", {}),
    "Keras, TensorFlow": ("keras_", {"KERAS_BACKEND": "tensorflow"}),
    "Keras, TensorFlow, XLA": ("keras_", {"KERAS_BACKEND": "tensorflow", "XLA": "1"}),
    "Keras, JAX": ("keras_", {"KERAS_BACKEND": "jax", "XLA": "1"}),
    "PyTorch": ("pytorch", {}),
    "PyTorch, compile": ("pytorch", {"COMPILE": "default"}),
}
PEAK = "matmul"


@dataclass(frozen=True)
class Job:
    """A task, and how much of it is a turn."""

    kind: str
    model: str
    batch_size: int
    latent_dim: int
    amount: int


JOBS = {
    "train tutorial_conv": Job("train", "tutorial_conv", 128, 2, 50),
    "train gated_mlp": Job("train", "gated_mlp", 100, 40, 300),
    "decode tutorial_conv": Job("decode", "tutorial_conv", 128, 2, 1),
}


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    rounds: int = 7
    """Turns that count, after one that does not."""
    jobs: tuple[str, ...] = tuple(JOBS)
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    out: Path = HERE / "speed.json"


class Contender:
    """A process that waits for its turn."""

    def __init__(self, script: str, variables: dict[str, str], task_file: Path) -> None:
        """Start it; its first `answer` says that it has built its model."""
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | variables
        self.script, self.log = script, task_file.with_name(f"{script}-{time.monotonic_ns()}.log")
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "contenders" / f"{script}.py"), str(task_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            env=environment,
        )

    def answer(self) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.script} ended: {self.log.read_text()[-3000:]}")
        return json.loads(line)

    def ask(self, amount: int) -> None:
        """Let it go once."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"amount": amount}) + "\n")
        self.process.stdin.flush()

    def turn(self, amount: int) -> dict[str, Any]:
        """Let it go once, and wait for its answer."""
        self.ask(amount)
        return self.answer()

    def end(self) -> None:
        """Close its input, which ends it."""
        self.process.communicate(timeout=60)


def make_task(job: Job, images: np.ndarray) -> Task:
    """The first parameters, the order of the images and the latents, all of seed 0."""
    model = PRESETS[job.model]((28, 28, 1), job.latent_dim, mean=channel_means(images))
    params = flatten_dict(jax.device_get(init(model, jax.random.key(0), (28, 28, 1))), sep=".")
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(10_000, job.latent_dim)).astype(np.float32)
    return Task(job.kind, job.model, job.batch_size, rng.permutation(images), latents, params)


def measure(job: Job, names: tuple[str, ...], images: np.ndarray, rounds: int) -> dict[str, Any]:
    """Seconds of each round and the loss of the very first steps, for every contender and for the peak."""
    with tempfile.TemporaryDirectory() as folder:
        task_file = Path(folder) / "task.npz"
        make_task(job, images).save(task_file)
        contenders: dict[str, Contender] = {}
        for name, (script, variables) in {PEAK: (PEAK, {}), **{n: CONTENDERS[n] for n in names}}.items():
            contenders[name] = Contender(script, variables, task_file)
            contenders[name].answer()
        amounts = {name: 10 if name == PEAK else job.amount for name in contenders}
        found: dict[str, Any] = {name: {"seconds": []} for name in contenders}
        for turn in range(rounds + 1):
            for name, contender in contenders.items():
                answer = contender.turn(amounts[name])
                if turn == 0:  # every contender has the same parameters and batches behind it
                    found[name]["loss"] = answer["loss"]
                else:
                    found[name]["seconds"].append(answer["seconds"])
                print(f"round {turn}  {name:24} {answer['seconds']:.2f} s", file=sys.stderr, flush=True)
        for contender in contenders.values():
            contender.end()
    items = job.amount * job.batch_size if job.kind == "train" else job.amount * 10_000
    passes = 3 if job.kind == "train" else 1
    product = found.pop(PEAK)
    peak = [10 * product["loss"] / seconds for seconds in product["seconds"]]
    ours = found[names[0]]["seconds"]
    for each in found.values():
        seconds = each["seconds"]
        each["images_per_second"] = items / median(seconds)
        each["times_slower"] = median(s / o for s, o in zip(seconds, ours, strict=True))
        if job.kind == "train":
            flops = 2 * passes * macs(job.model, latent_dim=job.latent_dim) * items
            each["fraction_of_peak"] = median(flops / s / p for s, p in zip(seconds, peak, strict=True))
    return {"peak_flops": median(peak), "contenders": found}


def show(title: str, job: Job, result: dict[str, Any]) -> None:
    """A table, fastest first."""
    table = Table(title=f"{title}: peak {result['peak_flops'] / 1e9:.0f} GFLOP/s", title_justify="left")
    for column in ("", "images/s", "flax_vae is faster by", "of the peak", "loss" if job.kind == "train" else "mean"):
        table.add_column(column, justify="left" if not column else "right")
    for name, each in sorted(result["contenders"].items(), key=lambda item: -item[1]["images_per_second"]):
        fraction = f"{each['fraction_of_peak']:.0%}" if "fraction_of_peak" in each else ""
        digits = 2 if job.kind == "train" else 5
        ratio = f"{each['times_slower']:.2f}"
        table.add_row(name, f"{each['images_per_second']:,.0f}", ratio, fraction, f"{each['loss']:.{digits}f}")
    Console().print(table)


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    images = np.asarray(load_images("fashion_mnist", "train").x)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "jobs": {},
    }
    for name in arguments.jobs:
        result = measure(JOBS[name], arguments.contenders, images, arguments.rounds)
        show(name, JOBS[name], result)
        report["jobs"][name] = result
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
