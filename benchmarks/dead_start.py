"""How many runs of `tutorial_conv` get stuck in a dead start, with the output bias at the mean pixel and at zero.

    python benchmarks/dead_start.py --seeds 16 --steps 300

A run is stuck when its posteriors hold next to nothing about the images (rate below 1 nat): the decoder then draws the
same average image for all of them. Prints a line for each seed and writes benchmarks/dead_start.json.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro

from flax_vae import ELBO, init_state, load_images, make_optimizer, make_train_step, tutorial_conv
from flax_vae.presets import mean_logit
from flax_vae.training import data_mesh, epoch_indices, make_train_steps, shardings

STUCK_RATE = 1.0
STEPS: dict = {}  # the jitted loop, compiled once for each bias


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    seeds: int = 16
    steps: int = 300
    batch_size: int = 128
    learning_rate: float = 1e-3


def last_terms(images: jax.Array, bias: float | tuple[float, ...], seed: int, arguments: Arguments) -> dict[str, float]:
    """Means over the last tenth of the steps."""
    mesh = data_mesh(arguments.batch_size)
    repeated, split = shardings(mesh)
    image_shape = (28, 28, 1)
    vae = tutorial_conv(image_shape, output_bias=bias)
    tx = make_optimizer("adam", arguments.learning_rate, arguments.steps)
    state = init_state(vae, tx, jax.random.key(seed), image_shape)
    step = make_train_step(vae, ELBO(), tx, microbatch_size=8, mesh=mesh)
    batch = jax.ShapeDtypeStruct((arguments.batch_size, *image_shape), images.dtype)
    shapes = jax.eval_shape(step, state, batch)[1]
    totals = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), shapes)
    rows = jax.device_put(epoch_indices(len(images), arguments.batch_size, seed, 0), split)
    state, totals = jax.device_put((state, totals), repeated)
    run = STEPS.setdefault(bias, make_train_steps(step, mesh))
    begin = arguments.steps * 9 // 10
    state, totals, _ = run(state, totals, images, rows, 0, begin)
    state, totals, _ = run(state, jax.tree.map(jnp.zeros_like, totals), images, rows, begin, arguments.steps)
    return {name: float(total) / (arguments.steps - begin) for name, total in totals.items()}


def main(arguments: Arguments) -> None:
    """Measure and print."""
    jax.config.update("jax_num_cpu_devices", 2)
    train = load_images("fashion_mnist", "train").images
    images = jax.device_put(train, shardings(data_mesh(arguments.batch_size))[0])
    results: dict[str, list[dict[str, float]]] = {"mean pixel": [], "zero": []}
    for seed in range(arguments.seeds):
        for name, bias in (("mean pixel", mean_logit(train)), ("zero", 0.0)):
            began = time.perf_counter()
            terms = last_terms(images, bias, seed, arguments)
            results[name].append({"seed": seed, **terms})
            print(
                f"seed {seed:2}  bias {name:10}  loss {terms['loss']:.1f}  rate {terms['rate']:.2f}  "
                f"{'stuck' if terms['rate'] < STUCK_RATE else 'learns'}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    for name, runs in results.items():
        stuck = sum(run["rate"] < STUCK_RATE for run in runs)
        print(f"bias at {name}: {stuck} of {len(runs)} stuck after {arguments.steps} steps")
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
