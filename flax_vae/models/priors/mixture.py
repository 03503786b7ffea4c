"""Mixtures of learned normals."""

import flax.linen as nn
import jax.numpy as jnp

from flax_vae.distributions import Mixture, Normal
from flax_vae.distributions.base import MAX_LOG_SCALE
from flax_vae.models.priors import PRIORS
from flax_vae.nn.module import Module


@PRIORS.register("mixture", tables=("loc", "log_scale"))
class LearnedMixture(Module):
    """p(z) = Σ_m softmax(logits)_m N(z; loc_m, exp(log_scale_m)²), all of it learned with the model.

    Starts with equal weights, unit scales and locations from N(0, I): close to N(0, 2I), with distinct components.
    """

    latent_dim: int
    components: int = 50

    @nn.compact
    def __call__(self) -> Mixture:
        """Return a mixture with event shape "d"."""
        shape = (self.components, self.latent_dim)
        logits = self.param("logits", nn.initializers.zeros, (self.components,))
        loc = self.param("loc", nn.initializers.normal(1.0), shape)
        log_scale = self.param("log_scale", nn.initializers.zeros, shape)
        return Mixture(logits, Normal(loc, jnp.clip(log_scale, -MAX_LOG_SCALE, MAX_LOG_SCALE)))
