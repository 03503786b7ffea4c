"""Optax optimisers by name, and the schedule of their rate."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

# Of the quintic c0·s + c1·s³ + c2·s⁵, whose repetition takes every singular value s in (0, 1] to about 1 (Jordan 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)
_REPETITIONS = 5
_TABLES = ("pseudo_inputs", "loc", "log_scale")  # parameters of priors with a row for each component: they map nothing


def orthogonalize(update: Float[Array, "*i o"]) -> Float[Array, "*i o"]:
    """The nearest matrix with singular values about 1 (0.7 to 1.2), by five Newton-Schulz steps (Jordan et al. 2024).

    An update X of several input axes is a matrix "(i) o". With its smaller side first, a step takes X to P X with
    P = c0 + c1·A + c2·A² and A = X Xᵀ, and so A to P A P: it is enough to repeat that on the small, symmetric A and to
    multiply X once, by the product of all P. What maps i inputs to o outputs is scaled by √max(1, o/i).
    """
    matrix = update.reshape(-1, update.shape[-1])
    inputs, outputs = matrix.shape
    x = matrix if inputs < outputs else matrix.T
    gram = x @ x.T
    norm = jnp.sqrt(jnp.trace(gram)) + 1e-8  # of all singular values together: none is above 1 after dividing by it
    identity = jnp.eye(len(gram))

    def step(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        product, a = carry
        p = _QUINTIC[0] * identity + _QUINTIC[1] * a + _QUINTIC[2] * (a @ a)
        return p @ product, p @ a @ p

    product, _ = jax.lax.fori_loop(0, _REPETITIONS, step, (identity, gram / norm**2))
    x = (product * math.sqrt(max(1, outputs / inputs)) / norm) @ x
    return (x if inputs < outputs else x.T).reshape(update.shape)


def muon(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024): Nesterov momentum whose matrices are made orthogonal before the step.

    Convolution kernels "kh kw i o" count as matrices "(kh kw i) o". Vectors, kernels with a single output, and the
    components of priors get Adam at the same rate. The updates are those of `optax.contrib.muon`, without its
    correction of the momentum's first steps, in a third of the time on CPUs.
    """

    def kind(path: tuple[Any, ...], leaf: Array) -> str:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return "matrix" if leaf.ndim > 1 and leaf.shape[-1] > 1 and name not in _TABLES else "vector"

    matrices = optax.chain(
        optax.trace(decay=0.95, nesterov=True),
        optax.stateless(lambda updates, _: jax.tree.map(orthogonalize, updates)),
        optax.scale_by_learning_rate(learning_rate),
    )
    return optax.partition(
        {"matrix": matrices, "vector": optax.adam(learning_rate, b2=0.99, nesterov=True)},
        partial(jax.tree.map_with_path, kind),
    )


OPTIMIZERS = {"adam": optax.adam, "adamax": optax.adamax, "adamw": optax.adamw, "muon": muon}


def make_optimizer(
    name: str,
    learning_rate: float | Array,
    total_steps: int,
    warmup_steps: int = 0,
    schedule: str = "constant",
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """An Optax optimiser whose rate warms up linearly, then stays or falls.

    Args:
        name: a key of `OPTIMIZERS`.
        learning_rate: the peak.
        total_steps: updates in the whole training, warm-up included.
        schedule: "constant", "linear" (to 0) or "cosine" (to 1 %).
        clip_norm: largest global norm of the gradient; 0 leaves it as it is.
    """
    steps = max(total_steps - warmup_steps, 1)
    rate = {
        "constant": optax.constant_schedule(learning_rate),
        "linear": optax.linear_schedule(learning_rate, 0.0, steps),
        "cosine": optax.cosine_decay_schedule(learning_rate, steps, alpha=0.01),
    }[schedule]
    if warmup_steps:
        rate = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), rate], [warmup_steps])
    optimizer = OPTIMIZERS[name](rate)
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer) if clip_norm else optimizer
