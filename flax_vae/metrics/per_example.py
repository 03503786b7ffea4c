"""Statistics of each image: one encoding of it, and the decoding of one draw."""

import contextlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flax_vae.batches import BatchLike, X, batch_size_of, unpack
from flax_vae.metrics.objective_means import in_blocks
from flax_vae.models.binding import Params, bind
from flax_vae.models.inputs import checking
from flax_vae.nn.layers import flat
from flax_vae.objectives.terms import dimension_rates, elbo_terms, layer_rates
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default


@by_default
def per_example_statistics(
    model: nn.Module, params: Params, images: BatchLike, key: Key[Array, ""], batch_size: int = 100
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """Return statistics of each image from one encoding and one decoded draw.

    Returns:
        elbo, rate and distortion "n" in nats; layer_rates "n l" in nats, top first; squared_error "n", the mean over
        the observed values; posterior_mean "n d", of the top layer, if the model has an encoder; dimension_rates "n d"
        in nats, if its layers are vectors of independent normals.
    """

    @jax.jit
    def of_block(params: Params, block: Any, key: Array) -> dict[str, Array]:
        def of_batch(numbered_batch: tuple[Array, Any]) -> dict[str, Array]:
            number, (x, context, mask) = numbered_batch[0], unpack(numbered_batch[1], model)
            return _statistics(bind(model, params, context, mask), x, mask, jax.random.fold_in(key, number))

        return jax.lax.map(of_batch, (jnp.arange(batch_size_of(block)), block))

    parts = []
    with checking(model, params, images):
        for i, (block, size) in enumerate(in_blocks(images, batch_size)):
            statistics = jax.device_get(of_block(params, block, jax.random.fold_in(key, i)))
            parts.append({name: array.reshape(-1, *array.shape[2:])[:size] for name, array in statistics.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _statistics(model: Any, x: X, mask: Any, key: Key[Array, ""]) -> dict[str, Array]:
    """Return the statistics of a batch under a bound model."""
    inference = model.infer(x, key)
    statistics = elbo_terms(inference, x) | {"layer_rates": jnp.stack(layer_rates(inference), axis=-1)}
    errors = jax.tree.map(lambda mean, x: jnp.square(mean[0] - x), inference.likelihood.mean(), x)
    statistics["squared_error"] = _all_values(errors).mean(-1, where=None if mask is None else _all_values(mask))
    if hasattr(model, "encode"):
        statistics["posterior_mean"] = model.encode(x).mean()
    if all(layer.z.ndim == 3 for layer in inference.layers):
        with contextlib.suppress(UserError):
            statistics["dimension_rates"] = jnp.concatenate(dimension_rates(inference), axis=-1)
    return statistics


def _all_values(tree: X) -> Array:
    """Concatenate the values of all views: "b n"."""
    return jnp.concatenate([flat(leaf) for leaf in jax.tree.leaves(tree)], axis=-1)
