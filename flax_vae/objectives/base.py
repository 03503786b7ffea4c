"""The interface of objectives, and their registry.

An objective is any function `(model, x, key, step) -> (loss "b", metrics {name: "b"})`, in nats per example. The
built-in ones are frozen dataclasses, so that their hyperparameters are values. The train step averages over the batch.

An objective that is a Linen module, called as `__call__(self, model, x, key, step)`, has parameters of its own: a
discriminator, or a learned multiplier. It returns one loss for all parameters, or the dictionary
`{"model": loss "b", "objective": loss "b"}`: in the same step, the model's parameters descend the first loss, and those
of the objective the second.

Two class attributes are optional. `whole_batch = True` declares that an objective compares the examples of a batch with
each other. `needs` declares requirements: `("factorised",)` on the posterior, and `("complete",)` for an objective that
compares x itself with something, and cannot leave out missing values.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError
from jaxtyping import Array, Float, Int

from flax_vae.batches import BatchLike, batch_size_of, unpack
from flax_vae.models import Params, bind, variables
from flax_vae.models.binding import OF_OBJECTIVE, Collections, join_objective, split_objective, split_tree
from flax_vae.models.protocol import RandomKey
from flax_vae.parts import Parts
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default

Metrics = dict[str, Array]
Step = Int[Array, ""]
LossAndMetrics = tuple[Float[Array, " b"], Metrics]
Objective = Callable[[Any, Array, Array, Array], tuple[Array, Metrics]]
LOSSES = ("loss", "objective_loss")  # metrics that are minimised, the second only by an objective's parameters
_OF_DROPOUT = 2**31 - 1  # folded into a step's key for the dropout masks; objectives fold in smaller numbers
OBJECTIVES = Parts(
    "objective", supplied=("num_images", "total_steps", "steps_per_epoch"), called_with="model, x, key, step"
)


@by_default
def apply_objective(
    model: nn.Module, objective: Objective, params: Params, batch: BatchLike, key: RandomKey, step: int | Step
) -> Metrics:
    """Return the loss "b" and the metrics "b" of an objective for a model with its parameters, in evaluation mode.

    Args:
        model: the Linen module.
        objective: the objective.
        params: the parameters or the whole tree, with those of the objective if it has any.
        batch: images, with contexts if the model is conditional.
        key: the key from which the objective draws.
        step: the number of updates before.

    Raises:
        UserError: the objective needs all values of x; a network draws; the objective did not return a loss and a
            dictionary of metrics, all of them one float per example; or a metric has a name that the train step uses.
    """
    x, *given = unpack(batch, model)
    bound, module = _bind(model, objective, params, given, {})
    return _terms(objective, module, bound, x, key, step)


@by_default
def train_objective(
    model: nn.Module, objective: Objective, params: Params, batch: BatchLike, key: RandomKey, step: int | Step
) -> tuple[Metrics, Collections]:
    """Return the terms of `apply_objective` in training mode, and the updated collections other than parameters.

    Networks draw dropout masks and update batch statistics; see `flax_vae.nn.adapters.with_train`.
    """
    x, *given = unpack(batch, model)
    bound, module = _bind(model, objective, params, given, {"dropout": jax.random.fold_in(key, _OF_DROPOUT)})
    terms = _terms(objective, module, bound, x, key, step)
    if module is None and LOSSES[1] in terms:
        raise UserError("The objective returned a loss for its parameters, but has none: make it a Linen module.")
    collections = split_tree(params)[1]
    updated = {name: {**bound.variables[name]} for name in collections}
    if module is not None:
        for name in [name for name in collections if OF_OBJECTIVE in collections[name]]:
            updated[name][OF_OBJECTIVE] = module.variables[name]
    return terms, updated


@by_default
def init_objective(
    model: nn.Module, objective: Objective | None, params: Params, batch: BatchLike, key: RandomKey
) -> Params:
    """Return the tree of a model with the initial tree of its objective, if the objective is a Linen module."""
    module = _linen(objective)
    if module is None:
        return params
    x, *given = unpack(batch, model)
    params_key, draw_key = jax.random.split(key)
    bound = bind(model, params, *given)
    created = module.init({"params": params_key}, bound, x, draw_key, jnp.zeros((), jnp.int32))
    return join_objective(params, dict(created))


def _linen(objective: Any) -> nn.Module | None:
    """Return the Linen module that an objective is or wraps."""
    if isinstance(objective, nn.Module):
        return objective
    return _linen(objective.objective) if hasattr(objective, "objective") else None


def _bind(
    model: nn.Module, objective: Any, params: Params, given: Sequence[Any], rngs: dict[str, RandomKey]
) -> tuple[Any, nn.Module | None]:
    """Return the bound model and, if the objective has parameters, its bound module.

    With `rngs` networks train: they draw, and may update their collections.
    """
    mutable: Any = [*split_tree(params)[1]] if rngs else False
    bound, module = model.bind(variables(model, params, *given), rngs=rngs, mutable=mutable), _linen(objective)
    if module is not None:
        if not split_objective(params)[1]:
            raise UserError("The objective has parameters, but the state has none: pass `objective` to init_state.")
        module = module.bind(split_objective(params)[1], rngs=rngs, mutable=mutable)
    return bound, module


def _terms(objective: Any, module: nn.Module | None, bound: Any, x: Any, key: RandomKey, step: int | Step) -> Metrics:
    name = getattr(objective, "__name__", type(objective).__name__)
    if bound.has_variable("mask", "value") and "complete" in getattr(objective, "needs", ()):
        raise UserError(f"`objective` {name} compares all values of x, so it takes no mask: choose another.")
    try:
        result = _with_module(objective, module)(bound, x, key, jnp.asarray(step))
    except InvalidRngError as error:  # its first line ends in a link
        reason = str(error).partition(" (http")[0]
        raise UserError(
            f"{reason}: a network draws nothing but dropout masks, and only in training. Wrap it as "
            "flax_vae.with_train(network, train=True), with the name of its own argument."
        ) from None
    return _checked_terms(name, result, batch_size_of(x))


def _with_module(objective: Any, module: nn.Module | None) -> Any:
    """Return an objective with the bound module in place of the module that it is or wraps."""
    if module is None:
        return objective
    if isinstance(objective, nn.Module):
        return module
    return replace(objective, objective=_with_module(objective.objective, module))


def _checked_terms(name: str, result: Any, count: int) -> Metrics:
    """Return the losses and the metrics of an objective by name, each checked to be one float per example."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise UserError(
            f"`objective` {name} must return (loss, metrics): an array of one loss per example and a dictionary."
        )
    loss, metrics = result
    losses = {"loss": loss}
    if isinstance(loss, dict):
        if loss.keys() != {"model", "objective"}:
            raise UserError(
                f"`objective` {name} returned losses of {', '.join(map(str, loss))}: return one for each of model and "
                "objective."
            )
        losses = dict(zip(LOSSES, (loss["model"], loss["objective"]), strict=True))
    if taken := {*LOSSES, "gradient_norm", "skipped"} & metrics.keys():
        raise UserError(
            f"`objective` {name} returned a metric named {taken.pop()}, which the train step reports: rename it."
        )
    terms = {**losses, **metrics}
    for term, value in terms.items():
        if jnp.shape(value) != (count,):
            raise UserError(
                f"`objective` {name} returned {term} of shape {jnp.shape(value)} for {count} examples; "
                f"it must be ({count},), one value per example: the train step averages over the batch."
            )
        if not jnp.issubdtype(kind := jnp.result_type(value), jnp.floating):
            raise UserError(f"`objective` {name} returned {term} of type {kind}: return floats, by .astype(x.dtype).")
    return terms
