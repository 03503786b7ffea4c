"""Normals with a full covariance."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.normal import MultivariateNormal
from flax_vae.models.posteriors import POSTERIORS
from flax_vae.models.posteriors.diagonal import DiagonalNormal
from flax_vae.nn.module import Module


@POSTERIORS.register("full")
class FullNormal(Module):
    """q(z | x) = N(mean(h), L Lᵀ) with a lower triangular L(h): the latents may be correlated given x."""

    latent_dim: int
    factorised: ClassVar[bool] = False
    exact_mean: ClassVar[bool] = True

    @nn.compact
    def __call__(self, h: Float[Array, "b f"]) -> MultivariateNormal:
        """Map features "b f" to a normal with batch shape "b" and event shape "d"."""
        diagonal = DiagonalNormal(self.latent_dim, name="diagonal")(h)
        rows = nn.Dense(self.latent_dim**2, name="rows")(h).reshape(-1, self.latent_dim, self.latent_dim)
        # In units of the diagonal, so that neither factor alone can make the other ill-conditioned.
        unit = jnp.tril(rows, -1) + jnp.eye(self.latent_dim)
        return MultivariateNormal(diagonal.loc, jnp.exp(diagonal.log_scale)[..., None] * unit)
