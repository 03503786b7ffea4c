"""flax_vae, as `train.py` and `decode` use it."""

import os
from dataclasses import replace

import jax
from flax.traverse_util import unflatten_dict
from jax_precision import set_precision
from task import Task, serve

from flax_vae import ELBO, decode, init_state, make_optimizer, make_train_step, use_machine
from flax_vae.presets import PRESETS
from flax_vae.runs.config import RECIPES
from flax_vae.training.sharding import data_mesh, shardings
from flax_vae.training.step import make_train_steps, zero_metrics


def prepare(task: Task):
    """The preset's own choice of devices and microbatches, images resident, all steps of a turn in one dispatch."""
    recipe = RECIPES[task.model]
    use_machine(os.cpu_count() if recipe.microbatch_size and task.kind == "train" else 1)
    latent_dim = task.latents.shape[1]
    model, tx = PRESETS[task.model]((28, 28, 1), latent_dim), make_optimizer("adam", 1e-3, 1)
    model = model.clone(dtype=set_precision())
    params = unflatten_dict(task.params, sep=".")
    if task.kind == "decode":
        latents = jax.device_put(task.latents)
        params = jax.device_put(params)

        def decode_all(times: int) -> float:
            for _ in range(times):
                last = decode(model, params, latents).block_until_ready()
            return float(last.mean())

        decode_all(1)
        return decode_all

    mesh = data_mesh(task.batch_size)
    everywhere, split = shardings(mesh)
    microbatch_size = recipe.microbatch_size if jax.default_backend() == "cpu" else 0
    step = make_train_step(model, ELBO(), tx, microbatch_size=microbatch_size, mesh=mesh)
    steps = make_train_steps(step, everywhere)
    state = replace(init_state(model, tx, jax.random.key(0), (28, 28, 1)), params=params, opt_state=tx.init(params))
    state, images = jax.device_put((state, task.images), everywhere)
    zeros = jax.device_get(zero_metrics(model, ELBO(), state, task.images[: task.batch_size]))

    def train(amount: int) -> float:
        nonlocal state
        rows = jax.device_put(task.batches(int(state.step), amount), split)
        state, totals = steps(state, jax.device_put(zeros, everywhere), images, rows, 0, amount)
        return float(totals["loss"]) / amount

    return train


serve(prepare)
