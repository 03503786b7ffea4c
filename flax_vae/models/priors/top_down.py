"""Hierarchies of latents, top first."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from flax_vae.distributions.chain import Chain
from flax_vae.models.binding import model_of
from flax_vae.models.posteriors.top_down import conditionals


class TopDownPrior(nn.Module):
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
