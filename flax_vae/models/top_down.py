"""Hierarchies of latent vectors, top first: posterior and prior, and the networks that they have in common."""

from itertools import accumulate, pairwise
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions import Chain, Normal
from flax_vae.models.binding import model_of
from flax_vae.models.posteriors.diagonal import DiagonalNormal
from flax_vae.nn.bound_functions import Function, as_function
from flax_vae.nn.module import Module


class Conditional(Module):
    """p(z_l | z_<l) or q(z_l | z_<l, x): a `DiagonalNormal` after one hidden layer on the conditioning inputs."""

    latent_dim: int
    hidden: int
    log_var: float

    @nn.compact
    def __call__(self, above: Float[Array, "... a"], *h: Float[Array, "b f"]) -> Normal:
        """Map latents above "... a", and for a posterior an image's features, to a normal with event shape "d"."""
        hidden = nn.Dense(self.hidden)(above) + sum(nn.Dense(self.hidden, use_bias=False)(features) for features in h)
        return DiagonalNormal(self.latent_dim, self.log_var)(nn.silu(hidden))


def conditionals(
    latent_dims: tuple[int, ...], hidden: int, log_var: float, *h: Float[Array, "b f"]
) -> tuple[Function, ...]:
    """Return a `Conditional` for each layer except the top, as submodules of the compact module that calls this."""

    def layer(above: int, size: int) -> Function:
        conditional = Conditional(size, hidden, log_var)
        conditional(jnp.zeros(above), *h)  # creates the parameters
        return as_function(conditional, *h)

    return tuple(layer(above, total - above) for above, total in pairwise(accumulate(latent_dims)))


class TopDownPosterior(Module):
    """Posterior Π_l q(z_l | z_<l, x) of layers of latents, top first (Sønderby et al. 2016).

    Attributes:
        top: posterior of the top layer.
        latent_dims: size of each layer, top first.
        hidden: hidden units of each layer below the top.
    """

    top: nn.Module
    latent_dims: tuple[int, ...]
    hidden: int = 300
    factorised: ClassVar[bool] = False
    exact_mean: ClassVar[bool] = False

    @nn.compact
    def __call__(self, h: Float[Array, "b f"]) -> Chain:
        """Map features "b f" to a chain with batch shape "b" and event shape "d", all layers concatenated."""
        return Chain(self.top(h), conditionals(self.latent_dims, self.hidden, -4.0, h), self.latent_dims)


class TopDownPrior(Module):
    """Prior Π_l p(z_l | z_<l) of layers of latents, top first (Sønderby et al. 2016).

    It takes the place of the model for the prior of the top layer (see `model_of`), so it has `encode` and `context`.

    Attributes:
        top: prior of the top layer.
        latent_dims: size of each layer, top first.
        hidden: hidden units of each layer below the top.
    """

    top: nn.Module
    latent_dims: tuple[int, ...]
    hidden: int = 300

    @property
    def encodes_each_step(self) -> bool:
        """True if the prior of the top layer runs the encoder in every step."""
        return getattr(self.top, "encodes_each_step", False)

    @nn.compact
    def __call__(self) -> Chain:
        """Return a chain with event shape "d", all layers concatenated."""
        below = conditionals(self.latent_dims, self.hidden, log_var=0.0)  # starts near N(0, I), as the top does
        return Chain(self.top(), below, self.latent_dims)

    def encode(self, x: Float[Array, "b h w c"]) -> Any:
        """Return q(z_1 | x), for a `VampPrior` on top."""
        return model_of(self).encode(x).top

    def context(self) -> Array | None:
        """Return the context, for a `ConditionalNormal` on top."""
        return model_of(self).context()
