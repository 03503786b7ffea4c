"""Normal priors."""

import flax.linen as nn
import jax.numpy as jnp

from flax_vae.distributions.normal import Normal
from flax_vae.models.binding import model_of
from flax_vae.models.posteriors.diagonal import DiagonalNormal
from flax_vae.models.priors import PRIORS
from flax_vae.nn.module import Module


class StandardNormal(Module):
    """Prior p(z) = N(0, I)."""

    latent_dim: int

    def __call__(self) -> Normal:
        """Return a normal with event shape "d"."""
        zeros = jnp.zeros(self.latent_dim)
        return Normal(zeros, zeros)


class ConditionalNormal(Module):
    """Prior p(z | c) = N(mean(c), diag exp(log_var(c))) of a conditional model, with one hidden layer on its context c.

    Starts near N(0, I).
    """

    latent_dim: int
    hidden: int = 64

    @nn.compact
    def __call__(self) -> Normal:
        """Return a normal with batch shape "b" and event shape "d"."""
        h = nn.silu(nn.Dense(self.hidden)(model_of(self).context()))
        return DiagonalNormal(self.latent_dim, log_var=0.0)(h)


@PRIORS.register("normal")
def normal(latent_dim: int, conditional: bool = False) -> StandardNormal | ConditionalNormal:
    """N(0, I), or in a conditional model a normal whose mean and scale are learned for each context."""
    return ConditionalNormal(latent_dim) if conditional else StandardNormal(latent_dim)
