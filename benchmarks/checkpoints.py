"""How long a training stands still while checkpoints of a large model are written, at one a minute.

    pip install '.[bench]'
    python benchmarks/checkpoints.py

A gated MLP of about 100 million parameters, with Adam's two moments, trains; each checkpoint is begun between two steps
and written while the next ones run. Steps are timed without checkpoints, then with them: on CPUs these are slower,
since writing takes one of the cores. Prints and writes checkpoints.json.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

from flax_vae import ELBO, gated_mlp, init_state, load_images, make_optimizer, make_train_step, use_machine
from flax_vae.fitting.members import checkpoint_items
from flax_vae.runs.checkpoints import open_checkpoints


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    width: int = 4720
    """Of the model's hidden layers; 4,720 make 100 million parameters."""
    batch_size: int = 64
    saves: int = 3
    seconds: float = 60.0
    """Between two checkpoints."""


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    use_machine()
    images = load_images("fashion_mnist", "train").x
    model, tx = (
        gated_mlp((28, 28, 1), features=(arguments.width, arguments.width)),
        make_optimizer("adam", 1e-4, 10_000),
    )
    step = make_train_step(model, ELBO(), tx)
    state = init_state(model, tx, jax.random.key(0), (28, 28, 1))
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    random = np.random.default_rng(0)

    def train(seconds: float) -> list[float]:
        """Seconds of each step."""
        nonlocal state
        found, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            state, metrics = step(state, images[random.integers(0, len(images), arguments.batch_size)])
            jax.block_until_ready(metrics)
            found.append(time.perf_counter() - began)
        return found

    train(1)  # compiles
    alone = train(arguments.seconds / 2)
    still, beside = [], []
    with tempfile.TemporaryDirectory() as folder, open_checkpoints(Path(folder) / "checkpoints") as checkpoints:
        for _ in range(arguments.saves):
            began = time.perf_counter()
            items = jax.tree.map(jax.numpy.copy, checkpoint_items(state, {}))
            checkpoints.save(int(state.step), items)
            still.append(time.perf_counter() - began)
            beside += train(arguments.seconds)
    slower = sum(beside) - len(beside) * float(np.median(alone))
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "parameters": size,
        "gigabytes": 4 * 3 * size / 1e9,
        "step_seconds": float(np.median(alone)),
        "still_seconds": still,
        "still_share": float(np.mean(still)) / arguments.seconds,
        "slower_share": slower / (arguments.saves * arguments.seconds),
    }
    print(json.dumps(report, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
