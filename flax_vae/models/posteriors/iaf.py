"""Inverse autoregressive flows."""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from flax_vae.distributions.flow import Flow
from flax_vae.literals import LayerCount
from flax_vae.models.posteriors import POSTERIORS
from flax_vae.models.posteriors.diagonal import DiagonalNormal
from flax_vae.nn.bijectors import Autoregressive
from flax_vae.nn.bound_functions import as_function
from flax_vae.nn.module import Module


@POSTERIORS.register("iaf")
class InverseAutoregressive(Module):
    """z = f(ε, h) with ε from a diagonal normal and an inverse autoregressive flow f (Kingma et al. 2016).

    A draw comes with its density; the density of any other z takes one pass per dimension. Starts as the base normal.
    """

    latent_dim: int
    layers: LayerCount = 2
    hidden: int = 128
    factorised: ClassVar[bool] = False
    exact_mean: ClassVar[bool] = False

    @nn.compact
    def __call__(self, h: Float[Array, "b f"]) -> Flow:
        """Map features "b f" to a flow with batch shape "b" and event shape "d"."""
        base = DiagonalNormal(self.latent_dim, name="base")(h)
        flow = Autoregressive(self.latent_dim, self.layers, self.hidden)
        flow(base.loc, h)  # creates the parameters
        return Flow(base, as_function(flow, h), as_function(flow, h, method="inverse"))
