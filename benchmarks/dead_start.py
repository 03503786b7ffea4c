"""How many runs of `tutorial_conv` start dead, as it is and with the bias of its 16 features at 0.

    python benchmarks/dead_start.py --seeds 16 --steps 200

A run starts dead when most of the 16 ReLU features are soon zero for every image. Its loss then stays near 340 nats,
where others are below 300; the line is drawn at 320. Prints a line for each run and writes benchmarks/dead_start.json.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from flax_vae import (
    ELBO,
    VAE,
    TrainState,
    bind,
    init_state,
    load_images,
    make_optimizer,
    make_train_step,
    tutorial_conv,
    use_machine,
)
from flax_vae.batches import epoch_indices, to_float
from flax_vae.presets import channel_means
from flax_vae.training.sharding import data_mesh, shardings
from flax_vae.training.step import make_train_steps

DEAD_LOSS = 320.0
METRICS = ("loss", "elbo", "rate", "distortion", "gradient_norm", "skipped")


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    seeds: int = 16
    steps: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-3


def alive(model: VAE, state: TrainState, images: np.ndarray) -> float:
    """The fraction of the features that are above zero for any of the images."""
    features = bind(model, jax.device_get(state.params)).encoder(to_float(images))
    return float((features > 0).any(0).mean())


def main(arguments: Arguments) -> None:
    """Measure and print."""
    use_machine(2)
    images = load_images("fashion_mnist", "train").x
    model, tx = (
        tutorial_conv((28, 28, 1), mean=channel_means(images)),
        make_optimizer("adam", arguments.learning_rate, 1),
    )
    mesh = data_mesh(arguments.batch_size)
    everywhere, split = shardings(mesh)
    run = make_train_steps(make_train_step(model, ELBO(), tx, microbatch_size=8, mesh=mesh), everywhere)
    resident = jax.device_put(images, everywhere)
    last = arguments.steps - arguments.steps // 10  # the loss is the mean over the last tenth
    results: dict[str, list[dict[str, float]]] = {"as it is": [], "bias 0": []}
    for seed in range(arguments.seeds):
        rows = jax.device_put(epoch_indices(len(images), arguments.batch_size, seed, 0), split)
        for name, runs in results.items():
            began = time.perf_counter()
            state = init_state(model, tx, jax.random.key(seed), (28, 28, 1))
            if name == "bias 0":
                state.params["encoder"]["Dense_0"]["bias"] *= 0
            state = jax.device_put(state, everywhere)
            for start, stop in ((0, last), (last, arguments.steps)):
                totals = jax.device_put({term: jnp.zeros(()) for term in METRICS}, everywhere)
                state, totals = run(state, totals, resident, rows, start, stop)
            loss = float(totals["loss"]) / (arguments.steps - last)
            runs.append({"seed": seed, "loss": loss, "alive": alive(model, state, images[:500])})
            print(
                f"seed {seed:2}  {name:8}  loss {loss:.1f}  features alive {runs[-1]['alive']:.0%}  "
                f"{'dead' if loss > DEAD_LOSS else 'learns'}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    for name, runs in results.items():
        dead = sum(one["loss"] > DEAD_LOSS for one in runs)
        print(f"{name}: {dead} of {len(runs)} dead after {arguments.steps} steps")
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
