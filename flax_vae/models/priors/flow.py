"""Normalising flows."""

import flax.linen as nn
import jax.numpy as jnp

from flax_vae.distributions import Flow, Normal
from flax_vae.literals import LayerCount
from flax_vae.models.priors import PRIORS
from flax_vae.nn.bijectors import Couplings
from flax_vae.nn.bound_functions import as_function
from flax_vae.nn.module import Module


@PRIORS.register("flow")
class CouplingFlow(Module):
    """z = f(ε) with ε ~ N(0, I) and affine couplings f (Dinh et al. 2017). Starts as N(0, I)."""

    latent_dim: int
    layers: LayerCount = 4
    hidden: int = 64

    @nn.compact
    def __call__(self) -> Flow:
        """Return a flow with event shape "d"."""
        zeros = jnp.zeros(self.latent_dim)
        couplings = Couplings(self.latent_dim, self.layers, self.hidden)
        couplings(zeros)  # creates the parameters
        return Flow(Normal(zeros, zeros), as_function(couplings), as_function(couplings, method="inverse"))
