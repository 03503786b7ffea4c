"""How often a deep ladder diverges: the first 200 steps of many seeds, with twelve stochastic layers.

    python benchmarks/stability.py

No clipping, no skipping, no KL warm-up; Adam at twice its usual rate. A seed has diverged when its loss or gradient is
NaN or infinite. Prints the counts and writes stability.json.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from flax_vae import ELBO, init_state, ladder, load_images, make_optimizer, make_train_step, use_machine
from flax_vae.batches import epoch_indices
from flax_vae.objectives import DynamicallyBinarized
from flax_vae.presets import channel_means
from flax_vae.system.machine import cpu_cores
from flax_vae.training.sharding import data_mesh, shardings
from flax_vae.training.step import make_train_steps, zero_metrics

BATCH_SIZE, SHAPE = 32, (28, 28, 1)


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    seeds: int = 100
    steps: int = 200
    learning_rate: float = 4e-3


def main(arguments: Arguments) -> None:
    """Train each seed, print and write."""
    use_machine(cpu_cores())
    images = load_images("fashion_mnist", "train").x
    model = ladder(SHAPE, 16, mean=channel_means(images), widths=(16, 16), depths=(6, 5), blocks=1)
    objective = DynamicallyBinarized(ELBO())
    tx = make_optimizer("adam", arguments.learning_rate, arguments.steps, warmup_steps=20, schedule="constant")
    mesh = data_mesh(BATCH_SIZE)
    everywhere, split = shardings(mesh)
    steps = make_train_steps(make_train_step(model, objective, tx, microbatch_size=16, mesh=mesh), everywhere)
    on_device = jax.device_put(images, everywhere)
    began, losses, diverged = time.perf_counter(), list[float](), 0
    for seed in range(arguments.seeds):
        state = init_state(model, tx, jax.random.key(seed), SHAPE)
        totals = zero_metrics(model, objective, state, images[:BATCH_SIZE])
        rows = np.asarray(epoch_indices(len(images), BATCH_SIZE, seed, 0))[: arguments.steps]
        state, totals = jax.device_put((state, totals), everywhere)
        rows, end = jax.device_put(rows, split), arguments.steps
        state, before = steps(state, jax.tree.map(jnp.copy, totals), on_device, rows, 0, end - 1)
        _, last = steps(state, totals, on_device, rows, end - 1, end)
        skipped = int(before["skipped"] + last["skipped"])
        losses.append(float(last["loss"]))
        diverged += skipped > 0
        norm = float(last["gradient_norm"])
        print(f"seed {seed}: loss {losses[-1]:.1f}, norm of the gradient {norm:.1f}, {skipped} skipped", flush=True)
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "seeds": arguments.seeds,
        "steps": arguments.steps,
        "learning_rate": arguments.learning_rate,
        "diverged": diverged,
        "last_loss": {"least": min(losses), "median": float(np.median(losses)), "largest": max(losses)},
        "seconds": time.perf_counter() - began,
    }
    print(json.dumps(report, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
