"""Where the time of a training step goes: each layer's own speed, as a fraction of the machine's matmul peak.

    python benchmarks/layers.py

Each layer of `tutorial_conv` (microbatches of 8 images, a core each) and each dense layer of `gated_mlp` (batches of
100) computes its output and both gradients, in a loop, as in training; a 2048³ matrix product takes turns with it. No
layer can exceed that product's speed: it bounds the images per second of any code that computes the same products.
Prints a table and writes layers.json.
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
import tyro
from jax.sharding import AxisType, PartitionSpec
from rich.console import Console
from rich.table import Table

from flax_vae import use_machine
from flax_vae.nn.convolutions import conv, upsample_conv

# Input "h w i", kernel "3 3 i o", and the multiplications for one image: upsampling ones by their four 2x2 phases.
CONVOLUTIONS: dict[str, tuple[Callable, tuple[int, int, int], int, int]] = {
    "conv 1->32 at 28x28": (conv, (28, 28, 1), 32, 784 * 9 * 32),
    "conv 32->64 at 14x14": (conv, (14, 14, 32), 64, 196 * 9 * 32 * 64),
    "conv 64->64 at 7x7": (conv, (7, 7, 64), 64, 49 * 9 * 64 * 64),
    "upsampling conv 64->32 from 7x7": (upsample_conv, (7, 7, 64), 32, 64 * 4 * 64 * 4 * 32),
    "upsampling conv 32->1 from 14x14": (upsample_conv, (14, 14, 32), 1, 196 * 9 * 32),
}
DENSE = {"dense 784->300": (784, 300), "dense 300->300": (300, 300), "dense 300->784": (300, 784)}
IMAGES, MICROBATCH, BATCH, REPEATS = 512, 8, 100, 100


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    rounds: int = 7


def convolution(function: Callable, shape: tuple[int, int, int], features: int) -> Callable[[], Any]:
    """Output and gradients for `IMAGES` images on all devices."""
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(AxisType.Auto,))
    x = jax.random.normal(jax.random.key(0), (IMAGES // MICROBATCH, MICROBATCH, *shape))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, shape[-1], features))
    first = shape[-1] == 1  # images need no gradient

    def share(x: Any, kernel: Any) -> Any:
        def add(total: Any, x: Any) -> tuple[Any, None]:
            grads = jax.grad(lambda x, kernel: (function(x, kernel) ** 2).sum(), 1 if first else (0, 1))(x, kernel)
            return total + (grads if first else grads[1] + 0 * grads[0].mean()), None

        return jax.lax.scan(add, jnp.zeros_like(kernel), x)[0][None]

    whole, split = PartitionSpec(), PartitionSpec("d")
    run = jax.jit(jax.shard_map(share, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False))
    return lambda: run(x, kernel)


def dense(inputs: int, outputs: int) -> Callable[[], Any]:
    """Output and gradients for `REPEATS` batches."""
    x = jax.random.normal(jax.random.key(0), (BATCH, inputs))
    kernel = jax.random.normal(jax.random.key(1), (inputs, outputs))

    @jax.jit
    def run(x: Any, kernel: Any) -> Any:
        def repeat(_: int, x: Any) -> Any:
            dx, dk = jax.grad(lambda x, kernel: ((x @ kernel) ** 2).sum(), (0, 1))(x, kernel)
            return 1e-9 * dx + dk[0, 0] * 1e-30

        return jax.lax.fori_loop(0, REPEATS, repeat, x)

    return lambda: run(x, kernel)


def measure(layers: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each layer."""
    use_machine(os.cpu_count() if layers == "convolutions" else 1)
    left = jax.random.normal(jax.random.key(2), (2048, 2048))
    product = jax.jit(jnp.matmul)
    if layers == "convolutions":
        functions = {name: convolution(f, shape, o) for name, (f, shape, o, _) in CONVOLUTIONS.items()}
        # The first layer has no gradient of the images.
        passes = {name: 2 if shape[-1] == 1 else 3 for name, (_, shape, _, _) in CONVOLUTIONS.items()}
        flops = {name: 2 * passes[name] * macs * IMAGES for name, (*_, macs) in CONVOLUTIONS.items()}
        images = IMAGES
    else:
        functions = {name: dense(*sizes) for name, sizes in DENSE.items()}
        flops = {name: 6 * i * o * BATCH * REPEATS for name, (i, o) in DENSE.items()}
        images = BATCH * REPEATS
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    peak: list[float] = []
    for turn in range(rounds + 1):
        began = time.perf_counter()
        for _ in range(3):
            product(left, left).block_until_ready()
        peak.append(3 * 2 * 2048**3 / (time.perf_counter() - began))
        for name, function in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(function())
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return [
        {
            "layer": name,
            "us an image": 1e6 * median(each) / images,
            "GFLOP/s": flops[name] / median(each) / 1e9,
            "fraction of peak": flops[name] / median(each) / median(peak[1:]),
        }
        for name, each in seconds.items()
    ]


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    rows = []
    for layers in ("convolutions", "dense"):
        with get_context("spawn").Pool(1) as process:  # each kind has a number of devices of its own
            rows += process.apply(measure, (layers, arguments.rounds))
    table = Table("forward and backward", "us an image", "GFLOP/s", "of the peak")
    for row in rows:
        table.add_row(
            row["layer"], f"{row['us an image']:.1f}", f"{row['GFLOP/s']:.0f}", f"{row['fraction of peak']:.0%}"
        )
    Console().print(table)
    report = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
