"""One training on several devices: the same losses however they share batches and parameters."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
PROGRAM = """
import json, sys
from functools import partial
import jax, numpy as np
from flax_vae import ELBO, DIPVAE, init_state, ladder, load_images, make_optimizer, make_train_step, tutorial_conv
from flax_vae import tutorial_dense, use_machine
from flax_vae.batches import epoch_indices
from flax_vae.training.sharding import data_mesh, parameter_shardings, shardings
from flax_vae.training.step import make_train_steps, zero_metrics

use_machine(8)
images = load_images(sys.argv[1], "train", image_size=8).images
shape, batch, steps = images.shape[1:], 48, 50
models = {"dense": tutorial_dense, "conv": tutorial_conv, "ladder": partial(ladder, latent_dim=4)}
rows = np.concatenate([epoch_indices(len(images), batch, 0, epoch) for epoch in range(5)])[:steps]

def losses(model, objective=ELBO(), devices=1, fsdp=1, **options):
    vae, tx = models[model](shape), make_optimizer("adam", 1e-3, steps, warmup_steps=20)
    state = init_state(vae, tx, jax.random.key(0), shape, ema=True)
    totals = zero_metrics(vae, objective, state, images[:batch])
    mesh = data_mesh(batch // options.get("accumulate", 1), devices, fsdp)
    everywhere, split = shardings(mesh)
    if mesh:
        state = jax.device_put(state, parameter_shardings(mesh, state))
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state.params))
    totals, on_device, cut = *jax.device_put((totals, images), everywhere), jax.device_put(rows, split)
    where = jax.tree.map(lambda leaf: leaf.sharding, state), everywhere
    step = make_train_step(vae, objective, tx, ema_decay=0.9, mesh=mesh, **options)
    run, found = make_train_steps(step, where), []
    for i in range(steps):
        state, totals = run(state, totals, on_device, cut, i, i + 1)
        found.append(float(totals["loss"]))
        totals = jax.device_put(jax.tree.map(np.zeros_like, jax.device_get(totals)), everywhere)
    return found, held / sum(leaf.size for leaf in jax.tree.leaves(state.params))

for case in json.loads(sys.argv[2]):
    objective = DIPVAE() if case.pop("whole_batch", False) else ELBO()
    print(json.dumps(losses(objective=objective, **case)), flush=True)
"""


def losses_of(cases: list[dict], images: Path) -> list[tuple[list[float], float]]:
    """The loss of each of fifty steps, and the share of the parameters that a device holds, of each case."""
    words = [sys.executable, "-c", PROGRAM, str(images), json.dumps(cases)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("training", "layouts"),
    [
        ({"model": "dense"}, [{"devices": 8}, {"devices": 8, "fsdp": 4}, {"devices": 8, "fsdp": 8}]),
        ({"model": "dense", "accumulate": 4}, [{"devices": 4, "fsdp": 2}]),
        ({"model": "dense", "whole_batch": True}, [{"devices": 8}]),
        # Eight microbatches: of each device its own, or of three devices that share each of them.
        ({"model": "conv", "microbatch_size": 6}, [{"devices": 8}, {"devices": 4, "fsdp": 2}, {"devices": 3}]),
        ({"model": "ladder"}, [{"devices": 8, "fsdp": 2}]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_losses_do_not_depend_on_the_layout(training: dict, layouts: list[dict], few_images: Path) -> None:
    (expected, _), *found = losses_of([training, *(training | layout for layout in layouts)], few_images)
    for layout, (losses, share) in zip(layouts, found, strict=True):
        np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=str(layout))
        fsdp = layout.get("fsdp", 1)
        assert 1 / fsdp <= share < (1 / fsdp + 0.2)
