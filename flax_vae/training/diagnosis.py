"""Why a step is not finite: by which term, in which layers, at which scales."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr
from jaxtyping import Array, Int, Key

from flax_vae.batches import Batch, unpack
from flax_vae.models.vae import Params, bind
from flax_vae.objectives.terms import Metrics, Objective, apply_objective


def diagnose(
    model: nn.Module, objective: Objective, params: Params, batch: Batch, key: Key[Array, ""], step: int
) -> str:
    """The loss and its terms, where its gradient is not finite, and the largest log-scale, as a part of a sentence.

    Args:
        model, objective, params, batch: of the step.
        key: that the step draws from.
        step: its number.
    """
    look = jax.jit(partial(_look, model, objective))
    grads, metrics, scales = jax.device_get(look(params, batch, key, jnp.asarray(step)))
    of_terms = {"loss": metrics.pop("loss")} | metrics
    bad = [name for name, leaf in _named(grads).items() if not np.isfinite(leaf).all()]
    norm = np.sqrt(sum(np.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads)))
    where = (
        f"is not finite in {bad[0]}" + f" and {len(bad) - 1} more" * (len(bad) > 1) if bad else f"is {norm:.4g} long"
    )
    found = [", ".join(f"{name} is {value:.4g}" for name, value in of_terms.items()), f"the gradient {where}"]
    if scales:
        where, largest = max(scales.items(), key=lambda item: np.nan_to_num(abs(item[1]), nan=np.inf))
        found.append(f"the largest log-scale is {largest:.4g}, in {where.removesuffix('.log_scale')}")
    return "; ".join(found)


def _look(
    model: nn.Module, objective: Objective, params: Params, batch: Batch, key: Key[Array, ""], step: Int[Array, ""]
) -> tuple[Params, Metrics, dict[str, Array]]:
    def mean_loss(params: Params) -> tuple[Array, Metrics]:
        terms = apply_objective(model, objective, params, batch, key, step)
        return terms["loss"].mean(), {name: value.mean() for name, value in terms.items()}

    grads, metrics = jax.grad(mean_loss, has_aux=True)(params)
    x, context = unpack(batch)
    inference = bind(model, params, context).infer(x, key)
    scales = {name: leaf for name, leaf in _named(inference).items() if name.endswith("log_scale")}
    return grads, metrics, {name: leaf.ravel()[jnp.abs(leaf).argmax()] for name, leaf in scales.items()}


def _named(tree: Any) -> dict[str, Any]:
    return {keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
