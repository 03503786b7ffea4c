"""The diagnosis of a step that is not finite: its terms, its gradient and its scales."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from flax_vae.batches import BatchLike, unpack
from flax_vae.models.binding import Params, bind
from flax_vae.objectives.base import Metrics
from flax_vae.pytrees import flatten_by_name
from flax_vae.system.settings import by_default
from flax_vae.training.gradient import Gradient


@by_default
def diagnose(
    model: nn.Module, gradient: Gradient, params: Params, batch: BatchLike, key: Key[Array, ""], step: int
) -> str:
    """Describe a step in a sentence fragment: the loss and its terms, the gradient, and the largest log-scale.

    Args:
        model: the Linen module.
        gradient: from `make_gradient`.
        params: the tree of the train state before the step.
        batch: the batch of the step.
        key: the key from which the step draws.
        step: the number of updates before it.
    """

    @jax.jit
    def examine(params: Params, batch: BatchLike, key: Array, step: Array) -> tuple[Params, Metrics, dict[str, Array]]:
        grads, metrics, _ = gradient(params, batch, key, step)
        x, *given = unpack(batch, model)
        inference = bind(model, params, *given).infer(x, jax.random.clone(key))
        scales = {name: leaf.ravel() for name, leaf in flatten_by_name(inference).items() if name.endswith("log_scale")}
        return grads, metrics, {name: scale[jnp.abs(scale).argmax()] for name, scale in scales.items()}

    grads, metrics, scales = jax.device_get(examine(params, batch, key, jnp.asarray(step)))
    terms = {"loss": metrics.pop("loss")} | metrics
    findings = [", ".join(f"{name} is {value:.4g}" for name, value in terms.items()), _describe_gradient(grads)]
    if scales:
        name, largest = max(scales.items(), key=lambda item: np.nan_to_num(abs(item[1]), nan=np.inf))
        findings.append(f"the largest log-scale is {largest:.4g}, in {name.removesuffix('.log_scale')}")
    return "; ".join(findings)


def _describe_gradient(grads: Params) -> str:
    bad = [name for name, leaf in flatten_by_name(grads).items() if not np.isfinite(leaf).all()]
    if not bad:
        norm = np.sqrt(sum(np.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads)))
        return f"the norm of the gradient is {norm:.4g}"
    others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"the gradient is not finite in {bad[0]}{others}"
