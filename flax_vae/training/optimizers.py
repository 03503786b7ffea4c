"""Optax optimisers and learning-rate schedules by name.

Each is a function registered under the name that users type, with the defaults of Optax:
`adam`, `adamw(weight_decay=1e-2)`, `cosine(end=0.1)`. The parts of a model may have optimisers of their own:

    split(encoder=frozen(), decoder=adam(), posterior=adam(1e-4))
    split(adamw(), objective=every(adam(1e-4), steps=2, start=1000))

An optimiser follows the scheduled learning rate unless a rate of its own is written.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from flax_vae.literals import StepIndex
from flax_vae.models.priors import PRIORS
from flax_vae.parts import Parts
from flax_vae.system.errors import UserError

OPTIMIZERS = Parts(
    "optimizer",
    supplied=("clip_norm",),
    unless_written=("learning_rate",),
    made=(optax.GradientTransformation, "an Optax transformation"),
)
Optimizer = Annotated[optax.GradientTransformation, OPTIMIZERS]
SCHEDULES = Parts("schedule", supplied=("peak", "steps"), called_with="count")

# Coefficients of the quintic c0·s + c1·s³ + c2·s⁵, whose iteration drives every singular value s in (0, 1] towards 1.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_OTHERS = "*"  # the label of the parameters that `split` does not name; it cannot be the name of a module


@OPTIMIZERS.register("adam")
def adam(
    learning_rate: optax.ScalarOrSchedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam: the mean gradient over the root of its mean square (Kingma & Ba 2015)."""
    return optax.adam(learning_rate, b1, b2, eps)


@OPTIMIZERS.register("adamax")
def adamax(
    learning_rate: optax.ScalarOrSchedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam with the largest recent gradient in place of the root mean square (Kingma & Ba 2015)."""
    return optax.adamax(learning_rate, b1, b2, eps)


@OPTIMIZERS.register("adamw")
def adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    return optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay)


@OPTIMIZERS.register("muon")
def muon(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.95, b1: float = 0.9, b2: float = 0.99
) -> optax.GradientTransformation:
    """Nesterov momentum, orthogonalised for matrices; Adam with b1 and b2 for the rest (Jordan et al. 2024).

    Convolution kernels "kh kw i o" count as matrices "(kh kw i) o". Adam, at the same rate, updates vectors, kernels
    with a single output, and the tables of priors: parameters with one row per component, which are not linear maps.
    Equals `optax.contrib.muon` without bias correction, in a third of the time on CPUs.
    """
    tables = {name for facts in PRIORS.facts.values() for name in facts.get("tables", ())}

    def kind(path: tuple[Any, ...], leaf: Array) -> str:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return "matrix" if leaf.ndim > 1 and leaf.shape[-1] > 1 and name not in tables else "vector"

    matrices = optax.chain(
        optax.trace(decay=momentum, nesterov=True),
        optax.stateless(lambda updates, _: jax.tree.map(orthogonalize, updates)),
        optax.scale_by_learning_rate(learning_rate),
    )
    return optax.partition(
        {"matrix": matrices, "vector": optax.adam(learning_rate, b1, b2, nesterov=True)},
        partial(jax.tree.map_with_path, kind),
    )


def orthogonalize(update: Float[Array, "*i o"]) -> Float[Array, "*i o"]:
    """Return the nearest matrix with singular values of about 1 (0.7 to 1.2), by five Newton-Schulz steps.

    An update X with several input axes is a matrix "(i) o". With the smaller side first, a step maps X to P X, where
    P = c0 + c1·A + c2·A² and A = X Xᵀ, and therefore A to P A P. So the iteration runs on the small, symmetric A, and X
    is multiplied once, by the product of all P. A map from i inputs to o outputs is scaled by √max(1, o/i).

    References:
        Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks.
    """
    matrix = update.reshape(-1, update.shape[-1])
    inputs, outputs = matrix.shape
    x = matrix if inputs < outputs else matrix.T
    gram = x @ x.T
    norm = jnp.sqrt(jnp.trace(gram)) + 1e-8  # Frobenius norm: dividing by it leaves no singular value above 1
    identity = jnp.eye(len(gram))

    def step(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        product, a = carry
        p = _QUINTIC[0] * identity + _QUINTIC[1] * a + _QUINTIC[2] * (a @ a)
        return p @ product, p @ a @ p

    product, _ = jax.lax.fori_loop(0, _ITERATIONS, step, (identity, gram / norm**2))
    x = (product * math.sqrt(max(1, outputs / inputs)) / norm) @ x
    return (x if inputs < outputs else x.T).reshape(update.shape)


@OPTIMIZERS.register("frozen")
def frozen() -> optax.GradientTransformation:
    """No update: the parameters stay as they are."""
    return optax.set_to_zero()


def _rate_of_updates(supplied: Mapping[str, Any], steps: int, start: int = 0, **_: Any) -> dict[str, Any]:
    """Map the count of an optimiser's own updates to the step, so that the learning rate is that of the step."""
    rate = supplied.get("learning_rate")
    return {**supplied, "learning_rate": (lambda count: rate(start + steps * count)) if callable(rate) else rate}


@OPTIMIZERS.register("every", inside=_rate_of_updates)
def every(optimizer: Optimizer, steps: int, start: StepIndex = 0) -> optax.GradientTransformation:
    """An optimiser that updates only at step `start` and every `steps` steps after it."""
    return optax.conditionally_mask(optimizer, lambda step: (step >= start) & ((step - start) % steps == 0))


@OPTIMIZERS.register("split")
def split(
    others: Annotated[optax.GradientTransformation | None, OPTIMIZERS] = None,
    clip_norm: float = 0.0,
    **parts: Optimizer,
) -> optax.GradientTransformation:
    """An optimiser for each part of the model, by its name: `split(adam(), encoder=frozen(), posterior=adam(1e-4))`.

    Args:
        others: the optimiser of the parts that are not named; if None, every part has to be named.
        clip_norm: the largest norm of the gradient of each part; 0 for no limit. The others count as one part.
        **parts: optimisers by the names at the top level of the parameters. `objective` names an objective's own.
    """
    optimizers = {name: _clipped(part, clip_norm) for name, part in parts.items()}
    if others is not None:
        optimizers[_OTHERS] = _clipped(others, clip_norm)

    def labels(params: Mapping[str, Any]) -> dict[str, str]:
        if unknown := parts.keys() - params.keys():
            raise UserError(f"`optimizer` split: no parameters are called {_listed(unknown)}, only {_listed(params)}.")
        if (unnamed := params.keys() - parts.keys()) and others is None:
            raise UserError(
                f"`optimizer` split: no optimiser for {_listed(unnamed)}. Name one for each, or first write one for "
                "all others, split(adam(), ...)."
            )
        return {name: name if name in parts else _OTHERS for name in params}

    return optax.partition(optimizers, labels)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _clipped(optimizer: optax.GradientTransformation, clip_norm: float) -> optax.GradientTransformation:
    """Return the optimiser with the norm of its gradient clipped; 0 for no limit."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer) if clip_norm else optimizer


@SCHEDULES.register("constant")
def constant(peak: float | Array) -> optax.Schedule:
    """The peak rate throughout."""
    return optax.constant_schedule(peak)


@SCHEDULES.register("linear")
def linear(peak: float | Array, steps: int, end: float = 0.0) -> optax.Schedule:
    """A straight line from the peak to the fraction `end` of it."""
    return optax.linear_schedule(peak, end * peak, steps)


@SCHEDULES.register("cosine")
def cosine(peak: float | Array, steps: int, end: float = 0.01) -> optax.Schedule:
    """Half a cosine wave from the peak to the fraction `end` of it (Loshchilov & Hutter 2017)."""
    return optax.cosine_decay_schedule(peak, steps, alpha=end)


def make_optimizer(
    name: str,
    learning_rate: float | Array,
    total_steps: int,
    warmup_steps: int = 0,
    schedule: str = "constant",
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Return an Optax optimiser whose learning rate warms up linearly, then follows a schedule.

    Args:
        name: an optimiser of `OPTIMIZERS`, as a name or a call: `adamw(weight_decay=1e-2)`.
        learning_rate: the peak.
        total_steps: the number of updates, warm-up included.
        warmup_steps: the number of updates over which the rate rises from 0.
        schedule: a schedule of `SCHEDULES` for the remaining updates, as a name or a call.
        clip_norm: the largest global norm of the gradient, or of the gradient of each part of `split`; 0 for no limit.

    Raises:
        UserError: unknown optimiser or schedule, or an argument that it does not take.
    """
    call = OPTIMIZERS.read(name)
    if "learning_rate" in dict(call.kwargs):
        raise UserError(f"`optimizer` {call}: set `learning_rate` instead; only the parts of split have their own.")
    rate = SCHEDULES.make(schedule, peak=learning_rate, steps=max(total_steps - warmup_steps, 1))
    if warmup_steps:
        rate = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), rate], [warmup_steps])
    optimizer = OPTIMIZERS.make(call, learning_rate=rate, clip_norm=clip_norm)
    return optimizer if OPTIMIZERS.accepts(call, "clip_norm") else _clipped(optimizer, clip_norm)
