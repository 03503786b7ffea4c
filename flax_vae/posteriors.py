"""Linen modules from an image's features to q(z | x)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions import MAX_LOG_SCALE, MultivariateNormal, Normal


class DiagonalNormal(nn.Module):
    """Posterior q(z | x) = N(mean(h), diag exp(log_var(h))) from features h, with one dense head for each.

    It starts narrow, with a standard deviation of about e⁻² = 0.14: from a wide one the decoder's first steps would see
    little but noise, and learn to do without the latents.
    """

    latent_dim: int

    @nn.compact
    def __call__(self, h: Float[Array, "b f"]) -> Normal:
        """Features "b f" -> normal with batch shape "b" and event shape "d"."""
        mean = nn.Dense(self.latent_dim, name="mean")(h)
        log_var = nn.Dense(self.latent_dim, bias_init=nn.initializers.constant(-4.0), name="log_var")(h)
        return Normal(mean, jnp.clip(0.5 * log_var, -MAX_LOG_SCALE, MAX_LOG_SCALE))


class FullNormal(nn.Module):
    """Posterior q(z | x) = N(mean(h), L Lᵀ) with a lower triangular L(h): the latents may be correlated given x."""

    latent_dim: int

    @nn.compact
    def __call__(self, h: Float[Array, "b f"]) -> MultivariateNormal:
        """Features "b f" -> normal with batch shape "b" and event shape "d"."""
        diagonal = DiagonalNormal(self.latent_dim, name="diagonal")(h)
        rows = nn.Dense(self.latent_dim**2, name="rows")(h).reshape(-1, self.latent_dim, self.latent_dim)
        # In units of the diagonal, so that neither part can make the other ill-conditioned by itself.
        unit = jnp.tril(rows, -1) + jnp.eye(self.latent_dim)
        return MultivariateNormal(diagonal.loc, jnp.exp(diagonal.log_scale)[..., None] * unit)
