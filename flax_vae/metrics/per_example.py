"""What each image shows by itself: one encoding of it, and the decoding of one draw."""

import contextlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flax_vae.batches import Batch, batch_size_of, unpack
from flax_vae.metrics.objective_means import in_blocks
from flax_vae.models.vae import Params, bind
from flax_vae.objectives.terms import dimension_rates, elbo_terms, layer_rates
from flax_vae.system.errors import UserError


def look_at_each(
    vae: nn.Module, params: Params, images: Batch, key: Key[Array, ""], batch_size: int = 100
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """What one encoding of each image, and the decoding of one draw, show.

    Returns:
        elbo, rate and distortion "n" in nats; layer_rates "n l", the top first; squared_error "n", the mean over the
        pixels; posterior_mean "n d", of the top layer, where the model has an encoder; dimension_rates "n d", where its
        layers are vectors of independent normals.
    """

    @jax.jit
    def of_block(params: Params, block: Any, key: Array) -> dict[str, Array]:
        def of_batch(numbered: tuple[Array, Any]) -> dict[str, Array]:
            number, (x, context) = numbered[0], unpack(numbered[1])
            model = bind(vae, params, context)
            inference = model.infer(x, jax.random.fold_in(key, number))
            found = elbo_terms(inference, x) | {"layer_rates": jnp.stack(layer_rates(inference), axis=-1)}
            error = jnp.square(inference.likelihood.mean()[0] - x)
            found["squared_error"] = error.reshape(len(x), -1).mean(-1)
            if hasattr(model, "encode"):
                found["posterior_mean"] = model.encode(x).mean()
            if all(layer.z.ndim == 3 for layer in inference.layers):
                with contextlib.suppress(UserError):
                    found["dimension_rates"] = jnp.concatenate(dimension_rates(inference), axis=-1)
            return found

        return jax.lax.map(of_batch, (jnp.arange(batch_size_of(block)), block))

    parts = []
    for i, (block, size) in enumerate(in_blocks(images, batch_size)):
        found = jax.device_get(of_block(params, block, jax.random.fold_in(key, i)))
        parts.append({name: each.reshape(-1, *each.shape[2:])[:size] for name, each in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
