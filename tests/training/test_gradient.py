"""The gradient of a batch does not depend on the devices that compute it, except for rounding."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae.training.gradient import average_gradient, largest_divisor

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
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **of: event.endswith("backend_compile_duration") and compiled.append(of.get("fun_name", ""))
)
images = load_images(sys.argv[1], "train", image_size=8).x
shape, batch, steps = images.shape[1:], 48, 12
small_ladder = partial(ladder, widths=(48,), depths=(1,), latent_dim=4)
models = {"dense": tutorial_dense, "conv": tutorial_conv, "ladder": small_ladder}
rows = np.concatenate([epoch_indices(len(images), batch, 0, epoch) for epoch in range(2)])[:steps]

def metrics_of(model, objective=ELBO(), devices=1, fsdp=1, **options):
    trained, tx = models[model](shape), make_optimizer("adam", 1e-3, steps, warmup_steps=8)
    state = init_state(trained, tx, jax.random.key(0), shape, ema=True)
    totals = zero_metrics(trained, objective, state, images[:batch])
    mesh = data_mesh(batch // options.get("accumulate", 1), devices, fsdp)
    everywhere, split = shardings(mesh)
    state = jax.device_put(state, parameter_shardings(mesh, state) if mesh else everywhere)
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state.params))
    share = held / sum(leaf.size for leaf in jax.tree.leaves(state.params))
    totals, resident, on_devices = *jax.device_put((totals, images), everywhere), jax.device_put(rows, split)
    where = jax.tree.map(lambda leaf: leaf.sharding, state), everywhere
    step, before = make_train_step(trained, objective, tx, ema_decay=0.9, mesh=mesh, **options), len(compiled)
    run, values = make_train_steps(step, where), []
    for start, stop in ((0, 1), (1, 3), (3, 7), (7, steps)):
        state, totals = run(state, totals, resident, on_devices, start, stop)
        values.append([float(totals[name]) for name in sorted(totals)])
        totals = jax.device_put(jax.tree.map(np.zeros_like, jax.device_get(totals)), everywhere)
    compilations = sum(name in ("run", "jit(run)") for name in compiled[before:])
    return values, share, len(on_devices.sharding.device_set), compilations

for case in json.loads(sys.argv[2]):
    objective = DIPVAE() if case.pop("whole_batch", False) else ELBO()
    print(json.dumps(metrics_of(objective=objective, **case)), flush=True)
"""


def run_cases(cases: list[dict], images: Path) -> list[tuple[list[list[float]], float, int, int]]:
    """Train twelve steps for each case, in four dispatches.

    Returns:
        For each case: the metrics of each dispatch, the fraction of the parameters on a device, the number of devices,
        and the number of compilations.
    """
    command = [sys.executable, "-c", PROGRAM, str(images), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "layouts"),
    [
        ({"model": "dense"}, [{"devices": 8}, {"devices": 8, "fsdp": 4}, {"devices": 8, "fsdp": 8}]),
        ({"model": "dense", "accumulate": 4}, [{"devices": 4, "fsdp": 2}]),
        ({"model": "dense", "whole_batch": True}, [{"devices": 8}]),
        # Eight microbatches: each device has its own, or three devices split each of them.
        ({"model": "conv", "microbatch_size": 6}, [{"devices": 8}, {"devices": 4, "fsdp": 2}, {"devices": 3}]),
        ({"model": "ladder"}, [{"devices": 8, "fsdp": 2}]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_metrics_do_not_depend_on_the_layout(training: dict, layouts: list[dict], few_images: Path) -> None:
    alone, *results = run_cases([training, *(training | layout for layout in layouts)], few_images)
    assert alone[1:] == [1, 1, 1]
    for layout, (metrics, share, devices, compilations) in zip(layouts, results, strict=True):
        np.testing.assert_allclose(metrics, alone[0], rtol=1e-5, err_msg=str(layout))
        fsdp = layout.get("fsdp", 1)
        assert 1 / fsdp <= share < (1 / fsdp + 0.2)
        assert devices == layout["devices"]
        assert compilations == 1


def test_parts_are_interleaved_and_each_microbatch_has_its_own_key() -> None:
    """The sixteen images of the module's diagram."""

    def noisy(params, batch, key, step):
        value = batch.mean() * jax.random.uniform(key)
        return {"w": value}, {"loss": value}, {"batch_stats": value}

    key, images = jax.random.key(0), np.arange(16, dtype=np.float32).reshape(16, 1, 1, 1)
    average = average_gradient(noisy, microbatch_size=2, accumulate=2, mesh=None)
    grads, metrics, collections = average({"w": jnp.zeros(())}, jnp.asarray(images), key, jnp.zeros((), jnp.int32))
    microbatches = [(0, 2), (4, 6), (8, 10), (12, 14), (1, 3), (5, 7), (9, 11), (13, 15)]
    values = [np.mean(pair) * jax.random.uniform(jax.random.fold_in(key, i)) for i, pair in enumerate(microbatches)]
    averages = grads["w"], metrics["loss"], collections["batch_stats"]
    np.testing.assert_allclose(averages, np.mean(values), rtol=1e-6)


@pytest.mark.parametrize(("number", "limit", "expected"), [(48, 0, 48), (48, 10, 8), (48, 100, 48), (7, 6, 1)])
def test_microbatches_are_as_large_as_the_limit_allows(number: int, limit: int, expected: int) -> None:
    assert largest_divisor(number, limit) == expected
