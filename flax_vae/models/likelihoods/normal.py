"""Normal values, of pixels or of vectors."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.levels import MAX_PIXEL_LOG_SCALE
from flax_vae.distributions.normal import Normal
from flax_vae.models.likelihoods import Mean, likelihood
from flax_vae.nn.module import Module


@likelihood("normal", Normal)
class NormalLikelihood(Module):
    """Normal values around the decoder's output, with one learned scale of at least 1/1000 (Rybkin et al. 2021)."""

    def start(self, mean: Mean) -> Mean:
        """Return a location for each channel."""
        return mean

    @nn.compact
    def __call__(self, output: Float[Array, "... c"]) -> Normal:
        """Map locations to p(x | z)."""
        log_scale = jnp.maximum(self.param("log_scale", nn.initializers.constant(-1.0), ()), -MAX_PIXEL_LOG_SCALE)
        return Normal(output, jnp.broadcast_to(log_scale, output.shape), event_ndim=3)


@likelihood("per_pixel_normal", Normal)
@dataclass(frozen=True)
class PerPixelNormalLikelihood:
    """Normal values, each with its own location and its own scale of at least 1/1000."""

    def start(self, mean: Mean) -> Mean:
        """Return locations, then log-scales."""
        return mean + (-1.0,) * len(mean)

    def __call__(self, output: Float[Array, "... o"]) -> Normal:
        """Map locations and log-scales to p(x | z)."""
        loc, log_scale = jnp.split(output, 2, axis=-1)
        return Normal(loc, jnp.clip(log_scale, -MAX_PIXEL_LOG_SCALE, MAX_PIXEL_LOG_SCALE), event_ndim=3)
