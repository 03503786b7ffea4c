"""Latents from the prior."""

from dataclasses import dataclass

import flax.linen as nn
from jaxtyping import Array, Float, Key

from flax_vae.models.binding import Context, Params
from flax_vae.samplers import SAMPLERS
from flax_vae.sampling import PixelKey, sample


@SAMPLERS.register("prior")
@dataclass(frozen=True, eq=False)
class PriorSampler:
    """Draws latents from the prior.

    Args:
        temperature: factor for the prior's standard deviation.
        context: contexts of the images, for a conditional model.
    """

    temperature: float = 1.0
    context: Context = None

    def __call__(
        self, vae: nn.Module, params: Params, key: Key[Array, ""], num_samples: int, pixel_key: PixelKey = None
    ) -> Float[Array, "n h w c"]:
        """Return new images."""
        return sample(vae, params, key, num_samples, self.temperature, self.context, pixel_key)
