"""Linen modules from an image's features to q(z | x).

A posterior says whether it is `factorised`, its dimensions independent given x, and whether the mean of its
distribution is the `exact_mean`.
"""

from itertools import accumulate, pairwise
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.base import MAX_LOG_SCALE
from flax_vae.distributions.chain import Chain
from flax_vae.distributions.flow import Flow
from flax_vae.distributions.normal import MultivariateNormal, Normal
from flax_vae.nn.bijectors import Autoregressive
from flax_vae.nn.bound_functions import Function, as_value
from flax_vae.parts import LayerCount, Parts

POSTERIORS = Parts("posterior", supplied=("latent_dim",))


@POSTERIORS.register("diagonal")
class DiagonalNormal(nn.Module):
    """q(z | x) = N(mean(h), diag exp(log_var(h))) from features h, with one dense head for each.

    It starts narrow, with a standard deviation of about e⁻² = 0.14: from a wide one the decoder's first steps would see
    little but noise, and learn to do without the latents.
    """

    latent_dim: int
    log_var: float = -4.0
    factorised: ClassVar[bool] = True
    exact_mean: ClassVar[bool] = True

    @nn.compact
    def __call__(self, h: Float[Array, "*b f"]) -> Normal:
        """Features "*b f" -> normal with batch shape "*b" and event shape "d"."""
        mean = nn.Dense(self.latent_dim, name="mean")(h)
        log_var = nn.Dense(self.latent_dim, bias_init=nn.initializers.constant(self.log_var), name="log_var")(h)
        return Normal(mean, jnp.clip(0.5 * log_var, -MAX_LOG_SCALE, MAX_LOG_SCALE))


@POSTERIORS.register("full")
class FullNormal(nn.Module):
    """q(z | x) = N(mean(h), L Lᵀ) with a lower triangular L(h): the latents may be correlated given x."""

    latent_dim: int
    factorised: ClassVar[bool] = False
    exact_mean: ClassVar[bool] = True

    @nn.compact
    def __call__(self, h: Float[Array, "b f"]) -> MultivariateNormal:
        """Features "b f" -> normal with batch shape "b" and event shape "d"."""
        diagonal = DiagonalNormal(self.latent_dim, name="diagonal")(h)
        rows = nn.Dense(self.latent_dim**2, name="rows")(h).reshape(-1, self.latent_dim, self.latent_dim)
        # In units of the diagonal, so that neither part can make the other ill-conditioned by itself.
        unit = jnp.tril(rows, -1) + jnp.eye(self.latent_dim)
        return MultivariateNormal(diagonal.loc, jnp.exp(diagonal.log_scale)[..., None] * unit)


@POSTERIORS.register("iaf")
class InverseAutoregressive(nn.Module):
    """z = f(ε, h) with ε from a diagonal normal and an inverse autoregressive flow f (Kingma et al. 2016).

    The density of a draw is known when it is drawn; that of another z takes a pass for each dimension. Starts as that
    normal.
    """

    latent_dim: int
    layers: LayerCount = 2
    hidden: int = 128
    factorised: ClassVar[bool] = False
    exact_mean: ClassVar[bool] = False

    @nn.compact
    def __call__(self, h: Float[Array, "b f"]) -> Flow:
        """Features "b f" -> flow with batch shape "b" and event shape "d"."""
        base = DiagonalNormal(self.latent_dim, name="base")(h)
        flow = Autoregressive(self.latent_dim, self.layers, self.hidden)
        flow(base.loc, h)  # creates the parameters
        return Flow(base, as_value(flow, h), as_value(flow, h, method="inverse"))


class Conditional(nn.Module):
    """p(z_l | z_<l) or q(z_l | z_<l, x): a `DiagonalNormal` of one hidden layer on what is given."""

    latent_dim: int
    hidden: int
    log_var: float

    @nn.compact
    def __call__(self, above: Float[Array, "... a"], *h: Float[Array, "b f"]) -> Normal:
        """Latents above "... a", and features of an image if there are any -> normal with event shape "d"."""
        hidden = nn.Dense(self.hidden)(above) + sum(nn.Dense(self.hidden, use_bias=False)(each) for each in h)
        return DiagonalNormal(self.latent_dim, self.log_var)(nn.silu(hidden))


def conditionals(
    latent_dims: tuple[int, ...], hidden: int, log_var: float, *h: Float[Array, "b f"]
) -> tuple[Function, ...]:
    """A `Conditional` for each layer but the top, within the compact module that calls this."""

    def layer(above: int, size: int) -> Function:
        conditional = Conditional(size, hidden, log_var)
        conditional(jnp.zeros(above), *h)  # creates the parameters
        return as_value(conditional, *h)

    return tuple(layer(above, whole - above) for above, whole in pairwise(accumulate(latent_dims)))


class TopDownPosterior(nn.Module):
    """Posterior Π_l q(z_l | z_<l, x) of layers of latents, top first (Sønderby et al. 2016).

    Attributes:
        top: posterior of the top layer.
        latent_dims: size of each layer, that of the top first.
        hidden: features between what is given and each layer below the top.
    """

    top: nn.Module
    latent_dims: tuple[int, ...]
    hidden: int = 300
    factorised: ClassVar[bool] = False
    exact_mean: ClassVar[bool] = False

    @nn.compact
    def __call__(self, h: Float[Array, "b f"]) -> Chain:
        """Features "b f" -> chain with batch shape "b" and event shape "d", all layers side by side."""
        return Chain(self.top(h), conditionals(self.latent_dims, self.hidden, -4.0, h), self.latent_dims)
