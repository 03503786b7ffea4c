"""Training on one accelerator: presets in float32, TF32 and bfloat16, against plain Flax and PyTorch, in turns.

    python -m venv peers && peers/bin/pip install '.[bench,cuda]'
    peers/bin/python benchmarks/gpu.py

All contenders of a model, in all precisions, are processes that start and compile side by side; then they take turns,
as in speed.py. The peak is that of a square matrix product of the same precision. Prints a table and writes gpu.json
after each model, and starts no model after `minutes`.
"""

import json
import math
import platform
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import tyro
from arithmetic import macs, multiplications
from rich.console import Console
from rich.table import Table
from speed import HERE, PEAK, Contender, Job, make_task

from flax_vae import ELBO, init, load_images
from flax_vae.objectives.base import apply_objective
from flax_vae.presets import PRESETS

CONTENDERS = {
    "flax_vae": ("flax_vae_", {}),
    "plain Flax": ("plain_flax", {}),
    "PyTorch": ("pytorch", {}),
    "PyTorch, compile": ("pytorch", {"COMPILE": "default"}),
    "PyTorch, CUDA graphs": ("pytorch", {"COMPILE": "reduce-overhead"}),
}
WITH_PEERS = ("tutorial_conv", "gated_mlp")
JOBS = {
    "tutorial_conv, batch 128": Job("train", "tutorial_conv", 128, 2, 400),
    "gated_mlp, batch 128": Job("train", "gated_mlp", 128, 40, 400),
    "tutorial_conv, batch 1024": Job("train", "tutorial_conv", 1024, 2, 100),
    "residual_conv, batch 128": Job("train", "residual_conv", 128, 2, 200),
    "ladder, batch 128": Job("train", "ladder", 128, 2, 200),
}
PRODUCTS = 20  # matrix products in a turn
Name = tuple[str, str]  # a contender and its precision


@dataclass(frozen=True)
class Arguments:
    """The models, contenders and precisions to measure, and for how long."""

    minutes: float = 9.0
    """No model is begun later than this."""
    rounds: int = 5
    """Turns that count, after one that does not."""
    steps: int | None = None
    """Steps in a turn; by default some hundred."""
    jobs: tuple[str, ...] = tuple(JOBS)
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    precisions: tuple[str, ...] = ("float32", "tf32", "bfloat16")
    out: Path = HERE / "gpu.json"


class Turns:
    """Contenders that take turns; one that fails is left out from then on, and the reason is kept."""

    def __init__(self, scripts: dict[Name, tuple[str, dict[str, str]]], task_file: Path) -> None:
        """Start all of them."""
        self.seconds: dict[Name, list[float]] = {each: [] for each in scripts}
        self.losses: dict[Name, float] = {}
        self.failed: dict[Name, str] = {}
        self.running = {each: Contender(*script, task_file) for each, script in scripts.items()}

    def answer(self, each: Name) -> dict[str, Any] | None:
        """The next answer of a contender, or None once it has failed."""
        if each in self.failed:
            return None
        try:
            return self.running[each].answer()
        except SystemExit as ended:
            self.failed[each] = str(ended).strip().splitlines()[-1]
            return None

    def ask(self, each: Name, amount: int) -> None:
        """Start a contender's turn, unless it has failed."""
        if each not in self.failed:
            self.running[each].ask(amount)

    def take(self, amounts: dict[Name, int], rounds: int) -> None:
        """Warm all contenders up side by side, then let them take turns."""
        for each in amounts:
            self.answer(each)  # it has built its model
        for each, amount in amounts.items():
            self.ask(each, amount)
        for each in amounts:
            if answer := self.answer(each):
                self.losses[each] = answer["loss"]
        for _ in range(rounds):
            for each, amount in amounts.items():
                self.ask(each, amount)
                if answer := self.answer(each):
                    self.seconds[each].append(answer["seconds"])

    def end(self) -> None:
        """End those that still run."""
        for each, contender in self.running.items():
            if each not in self.failed:
                contender.end()


def products_of_step(job: Job) -> float:
    """Multiplications per image in a training step; models with peers count as defined, as in speed.py."""
    if job.model in WITH_PEERS:
        return 3 * macs(job.model, latent_dim=job.latent_dim)
    model, shape, key = PRESETS[job.model]((28, 28, 1), job.latent_dim), (28, 28, 1), jax.random.key(0)

    def gradient(params: Any) -> Any:
        x = np.zeros((1, *shape), np.uint8)
        return jax.grad(lambda params: apply_objective(model, ELBO(), params, x, key, 0)["loss"].sum())(params)

    return multiplications(jax.make_jaxpr(gradient)(init(model, key, shape)).jaxpr)


def measure(job: Job, arguments: Arguments, images: np.ndarray) -> list[dict[str, Any]]:
    """A row for each contender and precision."""
    job = replace(job, amount=arguments.steps or job.amount)
    names = arguments.contenders if job.model in WITH_PEERS else ("flax_vae",)
    scripts = {
        (name, precision): (script, {**variables, "PRECISION": precision, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"})
        for name, (script, variables) in {PEAK: (PEAK, {}), **{name: CONTENDERS[name] for name in names}}.items()
        for precision in arguments.precisions
    }
    amounts = {each: PRODUCTS if each[0] == PEAK else job.amount for each in scripts}
    with tempfile.TemporaryDirectory() as folder:
        make_task(job, images).save(Path(folder) / "task.npz")
        turns = Turns(scripts, Path(folder) / "task.npz")
        turns.take(amounts, arguments.rounds)
        turns.end()
    flops = 2 * products_of_step(job) * job.amount * job.batch_size
    return [row(each, job, turns, flops) for each in scripts if each[0] != PEAK]


def row(each: Name, job: Job, turns: Turns, flops: float) -> dict[str, Any]:
    """The figures of a contender."""
    name, precision = each
    about = {"contender": name, "precision": precision}
    if each in turns.failed:
        return about | {"failed": turns.failed[each]}
    seconds, ours = turns.seconds[each], turns.seconds.get(("flax_vae", precision), [])
    peaks = [PRODUCTS * turns.losses[PEAK, precision] / s for s in turns.seconds[PEAK, precision]]
    return about | {
        "images_per_second": job.amount * job.batch_size / median(seconds),
        "times_slower": middle([s / o for s, o in zip(seconds, ours, strict=False)]),
        "fraction_of_peak": middle([flops / s / p for s, p in zip(seconds, peaks, strict=False)]),
        "peak_flops": middle(peaks),
        "loss": turns.losses[each],
    }


def middle(numbers: list[float]) -> float:
    """The median; NaN if there is nothing to compare with, since flax_vae or the peak has failed."""
    return median(numbers) if numbers else math.nan


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """A table of the contenders of a model."""
    table = Table(title=title, title_justify="left")
    for column in ("", "precision", "images/s", "flax_vae is faster by", "of the peak", "loss"):
        table.add_column(column, justify="left" if column in ("", "precision") else "right")
    for each in rows:
        about = each["contender"], each["precision"]
        if "failed" in each:
            table.add_row(*about, each["failed"][:60])
            continue
        figures = (f"{each['images_per_second']:,.0f}", f"{each['times_slower']:.2f}")
        table.add_row(*about, *figures, f"{each['fraction_of_peak']:.1%}", f"{each['loss']:.2f}")
    Console().print(table)


def device() -> str:
    """The accelerator's name, or the processor's."""
    if not shutil.which("nvidia-smi"):
        return platform.processor() or platform.machine()
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    began = time.monotonic()
    jax.config.update("jax_platforms", "cpu")  # the contenders have the accelerator to themselves
    images = np.asarray(load_images("fashion_mnist", "train").x)
    report: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "device": device(), "models": {}}
    for name in arguments.jobs:
        if time.monotonic() - began > 60 * arguments.minutes:
            Console(stderr=True).print(f"{name}: left out, no time is left")
            continue
        report["models"][name] = measure(JOBS[name], arguments, images)
        show(name, report["models"][name])
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
