"""Normals with independent dimensions."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.base import MAX_LOG_SCALE
from flax_vae.distributions.normal import Normal
from flax_vae.models.posteriors import POSTERIORS
from flax_vae.nn.module import Module


@POSTERIORS.register("diagonal")
class DiagonalNormal(Module):
    """q(z | x) = N(mean(h), diag exp(log_var(h))) from features h, with one dense head for each.

    It starts narrow, with a standard deviation of about e⁻² = 0.14: a wide one would show the decoder little but noise
    at first, and it would learn to ignore the latents.
    """

    latent_dim: int
    log_var: float = -4.0
    factorised: ClassVar[bool] = True
    exact_mean: ClassVar[bool] = True

    @nn.compact
    def __call__(self, h: Float[Array, "*b f"]) -> Normal:
        """Map features "*b f" to a normal with batch shape "*b" and event shape "d"."""
        mean = nn.Dense(self.latent_dim, name="mean")(h)
        log_var = nn.Dense(self.latent_dim, bias_init=nn.initializers.constant(self.log_var), name="log_var")(h)
        return Normal(mean, jnp.clip(0.5 * log_var, -MAX_LOG_SCALE, MAX_LOG_SCALE))
