"""The mean of posteriors at learned images."""

import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logit
from jaxtyping import Array, Float

from flax_vae.batches import StoredImages
from flax_vae.distributions.mixture import Mixture
from flax_vae.models.binding import model_of
from flax_vae.models.priors import PRIORS
from flax_vae.nn.layers import ImageShape
from flax_vae.nn.module import Module
from flax_vae.system.memory import require_memory


class VampPrior(Module):
    """Prior p(z) = 1/m Σ_m q(z | u_m), with the model's own posterior at learned images u (Tomczak & Welling 2018).

    Each step encodes the pseudo-inputs u in addition to its batch.

    Attributes:
        image_shape: "h w c" of the pseudo-inputs.
        start: their initial images, "m h w c" uint8, as bytes because a Linen module has to be hashable.
        components: their number m.
    """

    image_shape: ImageShape
    start: bytes = b""
    components: int = 128
    encodes_each_step: ClassVar[bool] = True

    @nn.compact
    def __call__(self) -> Mixture:
        """Return a mixture with event shape "d"."""
        logits = self.param("pseudo_inputs", self._start, (self.components, *self.image_shape))
        return Mixture(jnp.zeros(self.components), model_of(self).encode(nn.sigmoid(logits)))

    def _start(self, key: Array, shape: tuple[int, ...]) -> Float[Array, "m h w c"]:
        if not self.start:  # the parameters are about to be loaded
            return jnp.zeros(shape)
        # Clipped away from 0 and 1, where the gradient of the sigmoid vanishes.
        return logit(jnp.asarray(np.frombuffer(self.start, np.uint8).reshape(shape) / np.float32(255)).clip(0.02, 0.98))


@PRIORS.register("vamp", tables=("pseudo_inputs",), needs=("images",))
def vamp(image_shape: ImageShape, images: StoredImages | None = None, components: int = 128) -> VampPrior:
    """The mean of the model's own posteriors at learned images (VampPrior, Tomczak & Welling 2018)."""
    if images is None:
        return VampPrior(image_shape, components=components)
    size = components * (8 + math.prod(image_shape))  # an index and the pixels
    require_memory(size, f"`prior` vamp(components={components})", "learn fewer pseudo-inputs")
    indices = np.random.default_rng(0).choice(len(images), components)
    return VampPrior(image_shape, images[indices].tobytes(), components)
