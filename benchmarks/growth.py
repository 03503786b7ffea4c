"""How a training step grows: seconds and memory against batch, latents, image size and channels.

    python benchmarks/growth.py

One thing is varied at a time, from a batch of 128 images of 28x28x1 and two latent dimensions. The sizes take turns.
Memory is what XLA sets aside for a compiled step: arguments, results and everything between. Prints a table, writes
growth.json and draws growth.png, where both axes are ratios: a line above the diagonal would grow faster than the
arithmetic that the model's definition asks for.
"""

import json
import os
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro
from arithmetic import macs
from rich.console import Console
from rich.table import Table

from flax_vae import ELBO, init_state, make_optimizer, make_train_step, use_machine
from flax_vae.presets import PRESETS
from flax_vae.runs.config import RECIPES
from flax_vae.training.sharding import data_mesh, shardings
from flax_vae.training.step import make_train_steps

METRICS = ("loss", "elbo", "rate", "distortion", "gradient_norm", "skipped")


@dataclass(frozen=True)
class Size:
    """Everything that a step's cost depends on."""

    model: str
    batch_size: int = 128
    latent_dim: int = 2
    side: int = 28
    channels: int = 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape "h w c"."""
        return self.side, self.side, self.channels

    @property
    def arithmetic(self) -> int:
        """Multiplications of a step."""
        return 3 * self.batch_size * macs(self.model, self.image_shape, self.latent_dim)


VARIED = {
    "batch_size": (32, 64, 128, 256, 512, 1024),
    "latent_dim": (2, 8, 32, 128),
    "side": (28, 32, 64),
    "channels": (1, 3),
}


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = ("tutorial_conv", "gated_mlp")
    rounds: int = 5


class Steps:
    """A compiled step of one size, and what it needs."""

    def __init__(self, size: Size) -> None:
        """Compile it, as `train.py` would."""
        recipe = RECIPES[size.model]
        mesh = data_mesh(size.batch_size, None if recipe.microbatch_size else 1)
        everywhere, split = shardings(mesh)
        model, tx = PRESETS[size.model](size.image_shape, size.latent_dim), make_optimizer("adam", 1e-3, 1)
        step = make_train_step(model, ELBO(), tx, microbatch_size=recipe.microbatch_size, mesh=mesh)
        images = np.random.default_rng(0).integers(0, 256, (size.batch_size, *size.image_shape), dtype=np.uint8)
        state = init_state(model, tx, jax.random.key(0), size.image_shape)
        memory = jax.jit(step).lower(state, images).compile().memory_analysis()
        assert memory
        self.megabytes = (
            memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        ) / 1e6  # fmt: skip
        self.count = max(2, round(5e10 / (6 * size.arithmetic)))  # about half a second
        rows = np.broadcast_to(np.arange(size.batch_size, dtype=np.int32), (self.count, size.batch_size))
        self.run, self.everywhere = make_train_steps(step, everywhere), everywhere
        self.images, self.rows = jax.device_put(images, everywhere), jax.device_put(rows, split)
        self.state = jax.device_put(state, everywhere)

    def seconds(self) -> float:
        """One step, averaged over a dispatch."""
        totals = jax.device_put({name: np.zeros((), np.float32) for name in METRICS}, self.everywhere)
        began = time.perf_counter()
        self.state, totals = self.run(self.state, totals, self.images, self.rows, 0, self.count)
        jax.block_until_ready(totals)
        return (time.perf_counter() - began) / self.count


def measure(model: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each value of each thing varied."""
    use_machine(os.cpu_count() if RECIPES[model].microbatch_size else 1)
    return [row for varied in VARIED for row in measure_one(Size(model), varied, rounds)]


def measure_one(base: Size, varied: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each value of one thing."""
    sizes = [replace(base, **{varied: value}) for value in VARIED[varied]]  # type: ignore[arg-type]
    steps = [Steps(size) for size in sizes]
    seconds: list[list[float]] = [[] for _ in sizes]
    for turn in range(rounds + 1):
        for each, found in zip(steps, seconds, strict=True):
            taken = each.seconds()
            if turn:  # the first one compiles
                found.append(taken)
    return [
        {
            "model": size.model,
            "varied": varied,
            "value": getattr(size, varied),
            "ms": 1e3 * median(found),
            "megabytes": step.megabytes,
            "arithmetic": size.arithmetic / sizes[0].arithmetic,
            "time": median(now / first for now, first in zip(found, seconds[0], strict=True)),
        }
        for size, step, found in zip(sizes, steps, seconds, strict=True)
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for time and one for memory, a line for each model and thing varied."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for panel, title in zip(panels, ("time of a step", "memory of a step"), strict=True):
        for key in dict.fromkeys((row["model"], row["varied"]) for row in rows):
            line = [row for row in rows if (row["model"], row["varied"]) == key]
            y = [row["time"] if panel is panels[0] else row["megabytes"] / line[0]["megabytes"] for row in line]
            style = "o-" if key[0] == "tutorial_conv" else "s--"
            panel.plot([row["arithmetic"] for row in line], y, style, label=f"{key[0]}, {key[1].replace('_', ' ')}")
        panel.axline((1, 1), (2, 2), color="0.7", zorder=0)
        panel.set(
            xscale="log", yscale="log", xlabel="arithmetic, ratio to the smallest", ylabel="ratio to the smallest"
        )
        panel.set_title(f"{title} (grey: as the arithmetic)", loc="left")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments: Arguments) -> None:
    """Measure, print, write and draw."""
    rows = []
    for model in arguments.models:
        with get_context("spawn").Pool(1) as process:  # each model has a number of devices of its own
            rows += process.apply(measure, (model, arguments.rounds))
    table = Table("model", "varied", "value", "ms a step", "MB", "arithmetic", "time")
    for row in rows:
        numbers = f"{row['ms']:.1f}", f"{row['megabytes']:.1f}", f"{row['arithmetic']:.2f}", f"{row['time']:.2f}"
        table.add_row(row["model"], row["varied"], str(row["value"]), *numbers)
    Console().print(table)
    here = Path(__file__)
    here.with_suffix(".json").write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "rows": rows}, indent=1) + "\n")
    draw(rows, here.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
