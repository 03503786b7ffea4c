"""Where the time of a training step goes: each layer's own speed, as a fraction of the machine's matmul peak.

    python benchmarks/layers.py

Each layer of `tutorial_conv` (microbatches of 8 images, a core each) and each dense layer of `gated_mlp` (batches of
100) computes its output and both gradients, in a loop, as in training; and presets take whole training steps. A 2048³
matrix product takes turns with each. Nothing can exceed that product's speed: it bounds the images per second of any
code that computes the same products. Prints a table and writes layers.json.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from arithmetic import multiplications
from jax.sharding import AxisType, PartitionSpec
from rich.console import Console
from rich.table import Table

from flax_vae import ELBO, Config, init_state, load_images, make_optimizer, make_train_step, use_machine
from flax_vae.nn.convolutions import conv, upsample_conv
from flax_vae.objectives.base import apply_objective
from flax_vae.runs.models import make_model
from flax_vae.training.sharding import data_mesh, shardings
from flax_vae.training.step import make_train_steps, zero_metrics

# Input "h w i", kernel "3 3 i o", and the multiplications for one image: upsampling ones by their four 2x2 phases.
CONVOLUTIONS: dict[str, tuple[Callable, tuple[int, int, int], int, int]] = {
    "conv 1->32 at 28x28": (conv, (28, 28, 1), 32, 784 * 9 * 32),
    "conv 32->64 at 14x14": (conv, (14, 14, 32), 64, 196 * 9 * 32 * 64),
    "conv 64->64 at 7x7": (conv, (7, 7, 64), 64, 49 * 9 * 64 * 64),
    "upsampling conv 64->32 from 7x7": (upsample_conv, (7, 7, 64), 32, 64 * 4 * 64 * 4 * 32),
    "upsampling conv 32->1 from 14x14": (upsample_conv, (14, 14, 32), 1, 196 * 9 * 32),
}
DENSE = {"dense 784->300": (784, 300), "dense 300->300": (300, 300), "dense 300->784": (300, 784)}
STEPS = {preset: Config(preset=preset) for preset in ("tutorial_conv", "residual_conv", "ladder")} | {
    "the ladder of density/": Config(
        preset="ladder",
        prior="flow",
        posterior="iaf",
        likelihood="autoregressive(reach=7,features=24,hidden=192)",
        batch_size=128,
        ema_decay=0.999,
    )
}
IMAGES, MICROBATCH, BATCH, REPEATS = 512, 8, 100, 100


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    rounds: int = 7
    kinds: tuple[str, ...] = ("convolutions", "dense", "steps")


Measured = tuple[Callable[[], Any], float, int]  # what to run, its multiplications, and its images


def convolutions() -> dict[str, Measured]:
    """Output and gradients for `IMAGES` images on all devices; the first layer has no gradient of the images."""
    passes = {name: 2 if shape[-1] == 1 else 3 for name, (_, shape, _, _) in CONVOLUTIONS.items()}
    return {
        f"{name}, output and gradients": (convolution(f, shape, o), passes[name] * macs * IMAGES, IMAGES)
        for name, (f, shape, o, macs) in CONVOLUTIONS.items()
    }


def convolution(function: Callable, shape: tuple[int, int, int], features: int) -> Callable[[], Any]:
    """A layer of `convolutions`."""
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(AxisType.Auto,))
    x = jax.random.normal(jax.random.key(0), (IMAGES // MICROBATCH, MICROBATCH, *shape))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, shape[-1], features))
    first = shape[-1] == 1

    def share(x: Any, kernel: Any) -> Any:
        def add(total: Any, x: Any) -> tuple[Any, None]:
            grads = jax.grad(lambda x, kernel: (function(x, kernel) ** 2).sum(), 1 if first else (0, 1))(x, kernel)
            return total + (grads if first else grads[1] + 0 * grads[0].mean()), None

        return jax.lax.scan(add, jnp.zeros_like(kernel), x)[0][None]

    whole, split = PartitionSpec(), PartitionSpec("d")
    run = jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False))
    return lambda: run(x, kernel)


def dense_layers() -> dict[str, Measured]:
    """Output and gradients for `REPEATS` batches."""
    return {
        f"{name}, output and gradients": (dense(i, o), 3 * i * o * BATCH * REPEATS, BATCH * REPEATS)
        for name, (i, o) in DENSE.items()
    }


def dense(inputs: int, outputs: int) -> Callable[[], Any]:
    """A layer of `dense_layers`."""
    x = jax.random.normal(jax.random.key(0), (BATCH, inputs))
    kernel = jax.random.normal(jax.random.key(1), (inputs, outputs))

    @jax.jit
    def run(x: Any, kernel: Any) -> Any:
        def repeat(_: int, x: Any) -> Any:
            dx, dk = jax.grad(lambda x, kernel: ((x @ kernel) ** 2).sum(), (0, 1))(x, kernel)
            return 1e-9 * dx + dk[0, 0] * 1e-30

        return jax.lax.fori_loop(0, REPEATS, repeat, x)

    return lambda: run(x, kernel)


def training_steps() -> dict[str, Measured]:
    """Steps of presets by their recipes, optimiser and all."""
    return {f"training {name}": training(config) for name, config in STEPS.items()}


def training(config: Config) -> Measured:
    """Steps of one model by its configuration."""
    images = load_images("fashion_mnist", "train").x
    shape, batch_size, objective = images.shape[1:], config.batch_size, ELBO()
    model = make_model(config, shape, images)
    assert config.learning_rate is not None  # only beside an optimiser of one's own
    tx, mesh = make_optimizer(config.optimizer, config.learning_rate, 1000), data_mesh(batch_size)
    everywhere, split = shardings(mesh)
    state = init_state(model, tx, jax.random.key(0), shape, ema=bool(config.ema_decay))
    totals = zero_metrics(model, objective, state, images[:batch_size])

    def gradient(params: Any, x: Any) -> Any:
        return jax.grad(lambda params: apply_objective(model, objective, params, x, state.key, 0)["loss"].sum())(params)

    products = multiplications(jax.make_jaxpr(gradient)(state.params, images[:1]).jaxpr)
    step = make_train_step(
        model, objective, tx, ema_decay=config.ema_decay, microbatch_size=config.microbatch_size, mesh=mesh
    )
    steps = make_train_steps(step, everywhere)
    count = IMAGES // batch_size
    rows = np.random.default_rng(0).integers(0, len(images), (count, batch_size)).astype(np.int32)
    state, totals = jax.device_put((state, totals), everywhere)
    on_device, rows = jax.device_put(images, everywhere), jax.device_put(rows, split)

    def run() -> Any:
        nonlocal state, totals  # whose buffers each call donates to the next
        state, totals = steps(state, totals, on_device, rows, 0, count)
        return totals

    return run, products * count * batch_size, count * batch_size


def measure(kind: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each layer or preset of a kind."""
    make, devices = KINDS[kind]
    use_machine(devices)
    left = jax.random.normal(jax.random.key(2), (2048, 2048))
    product = jax.jit(jnp.matmul)
    measured = make()
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    peak: list[float] = []
    for turn in range(rounds + 1):
        began = time.perf_counter()
        for _ in range(3):
            product(left, left).block_until_ready()
        peak.append(3 * 2 * 2048**3 / (time.perf_counter() - began))
        for name, (function, *_) in measured.items():
            began = time.perf_counter()
            jax.block_until_ready(function())
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return [
        {
            "what": name,
            "us an image": 1e6 * median(seconds[name]) / images,
            "GFLOP/s": 2 * products / median(seconds[name]) / 1e9,
            "fraction of peak": 2 * products / median(seconds[name]) / median(peak[1:]),
        }
        for name, (_, products, images) in measured.items()
    ]


KINDS: dict[str, tuple[Callable[[], dict[str, Measured]], int | None]] = {
    "convolutions": (convolutions, os.cpu_count()),
    "dense": (dense_layers, 1),
    "steps": (training_steps, os.cpu_count()),
}


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    rows = []
    for kind in arguments.kinds:
        with get_context("spawn").Pool(1) as process:  # each kind has a number of devices of its own
            rows += process.apply(measure, (kind, arguments.rounds))
    table = Table("", "us an image", "GFLOP/s", "of the peak")
    for row in rows:
        table.add_row(
            row["what"], f"{row['us an image']:.1f}", f"{row['GFLOP/s']:.0f}", f"{row['fraction of peak']:.0%}"
        )
    Console().print(table)
    report = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
