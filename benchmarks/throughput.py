"""flax_vae against itself and against the machine: many members, the importance-weighted likelihood, the latent plane.

    python benchmarks/throughput.py

Members: 8 seeds of the gated MLP at batch 100 in one program, against one of them alone; the two take turns.
Likelihood: `log_likelihood` of the gated MLP with 5,000 samples, as a fraction of the speed of a 2048³ matrix product
that takes turns with it, and its memory with 50 and with 5,000 samples. Plane: `latent_grid` of 30x30 points of
`tutorial_conv`, once compiled. Prints a table and writes throughput.json.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from arithmetic import macs
from rich.console import Console
from rich.table import Table

from flax_vae import (
    ELBO,
    init,
    init_state,
    latent_grid,
    load_images,
    log_likelihood,
    make_optimizer,
    make_train_step,
    use_machine,
)
from flax_vae.batches import epoch_indices
from flax_vae.presets import PRESETS, channel_means
from flax_vae.training.ensemble import make_ensemble_steps, stack
from flax_vae.training.sharding import EACH_MEMBER, EVERYWHERE, ensemble_mesh

METRICS = ("loss", "elbo", "rate", "distortion", "gradient_norm", "skipped")
BATCH, LATENT_DIM = 100, 40


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    rounds: int = 7
    members: int = 8
    images: int = 64
    """Images whose likelihood is estimated in a turn."""


def in_turns(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each function in each round; a first round does not count."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(function())
            if turn:
                found[name].append(time.perf_counter() - began)
    return found


def members(count: int, rounds: int, steps: int = 100) -> dict[str, float]:
    """Member-images per second together and one after another: each side runs with its own number of devices."""
    with get_context("spawn").Pool(1) as together, get_context("spawn").Pool(1) as alone:
        for side, number in ((together, count), (alone, 1)):
            side.apply(_prepare_members, (number, steps))
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds + 1):
            for side, found in zip((together, alone), seconds, strict=True):
                taken = side.apply(_train_members)
                if turn:
                    found.append(taken)
    return {
        "together": count * steps * BATCH / median(seconds[0]),
        "alone": steps * BATCH / median(seconds[1]),
        "times faster": median(count * one / many for many, one in zip(*seconds, strict=True)),
    }


_turn: list[Callable[[], None]] = []  # what a process of `members` does when it is its turn


def _prepare_members(count: int, steps: int) -> None:
    use_machine(os.cpu_count() if count > 1 else 1)
    images = load_images("fashion_mnist", "train").x
    model = PRESETS["gated_mlp"]((28, 28, 1), LATENT_DIM, mean=channel_means(images))

    def step(own: Any) -> Any:
        return make_train_step(model, ELBO(own["beta"]), make_optimizer("adam", own["learning_rate"], 1))

    tx = make_optimizer("adam", 1e-3, 1)
    states = stack([init_state(model, tx, jax.random.key(seed), (28, 28, 1)) for seed in range(count)])
    rows = stack([epoch_indices(len(images), BATCH, seed, 0) for seed in range(count)])
    mesh = ensemble_mesh(count, BATCH)
    everywhere, split = (jax.NamedSharding(mesh, spec) for spec in (EVERYWHERE, EACH_MEMBER))
    own = {name: np.full(count, value, np.float32) for name, value in {"beta": 1.0, "learning_rate": 1e-3}.items()}
    settings = jax.device_put((np.zeros(count, np.int32), own), split)
    run = partial(make_ensemble_steps([step], mesh, split, deal_microbatches=True), settings)
    resident, rows = jax.device_put(images, everywhere), jax.device_put(rows, split)
    states = jax.device_put(states, split)

    def turn() -> None:
        nonlocal states
        totals = jax.device_put({name: np.zeros(count, np.float32) for name in METRICS}, split)
        states, totals = run(states, totals, (resident, rows, 0, steps))
        jax.block_until_ready(totals)

    _turn.append(turn)


def _train_members() -> float:
    began = time.perf_counter()
    _turn[0]()
    return time.perf_counter() - began


def likelihood(num_images: int, rounds: int) -> dict[str, float]:
    """Fraction of the matmul peak, and megabytes."""
    images = load_images("fashion_mnist", "test").x[:num_images]
    model = PRESETS["gated_mlp"]((28, 28, 1), LATENT_DIM, mean=channel_means(images))
    params = init(model, jax.random.key(0), (28, 28, 1))
    left = jax.random.normal(jax.random.key(1), (2048, 2048))
    product, key = jax.jit(jnp.matmul), jax.random.key(2)
    seconds = in_turns(
        {
            "likelihood": lambda: log_likelihood(model, params, images, key, 5000),
            "peak": lambda: [product(left, left).block_until_ready() for _ in range(5)],
        },
        rounds,
    )
    decoder = macs("gated_mlp", latent_dim=LATENT_DIM) - 784 * 600 - 300 * 600 - 300 * 2 * LATENT_DIM
    flops, peak = 2 * decoder * 5000 * num_images, 5 * 2 * 2048**3

    def megabytes(num_samples: int) -> float:
        memory = log_likelihood.lower(model, params, images, key, num_samples).compile().memory_analysis()
        assert memory
        return memory.temp_size_in_bytes / 1e6

    return {
        "seconds for 10,000 images": median(seconds["likelihood"]) * 10_000 / num_images,
        "fraction of peak": median(
            flops / ours / (peak / theirs) for ours, theirs in zip(*seconds.values(), strict=True)
        ),
        "peak GFLOP/s": peak / median(seconds["peak"]) / 1e9,
        "MB with 50 samples": megabytes(50),
        "MB with 5,000 samples": megabytes(5000),
    }


def plane(rounds: int) -> dict[str, float]:
    """Milliseconds of the 30x30 grid."""
    model = PRESETS["tutorial_conv"]((28, 28, 1), 2)
    params = init(model, jax.random.key(0), (28, 28, 1))
    return {"ms": 1e3 * median(in_turns({"grid": lambda: latent_grid(model, params)}, rounds)["grid"])}


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    found = {
        f"{arguments.members} members": members(arguments.members, arguments.rounds),
        "log_likelihood, 5,000 samples": likelihood(arguments.images, arguments.rounds),
        "latent_grid, 30x30": plane(arguments.rounds),
    }
    table = Table("", "", "")
    for name, numbers in found.items():
        for what, value in numbers.items():
            table.add_row(name, what, f"{value:,.2f}")
    Console().print(table)
    report = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "found": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
