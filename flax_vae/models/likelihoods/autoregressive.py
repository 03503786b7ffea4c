"""Autoregressive pixels."""

from inspect import isclass
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.batches import Support
from flax_vae.distributions.autoregressive import Autoregressive, PixelNetwork
from flax_vae.models.likelihoods import LIKELIHOODS, Mean
from flax_vae.nn.module import Module


@LIKELIHOODS.register("autoregressive", needs=("images",))
class AutoregressiveLikelihood(Module):
    """Each pixel given the previous ones in a window, and z (PixelVAE, Gulrajani et al. 2017).

    The latents need not encode what neighbouring pixels predict, only what lies beyond the window (Chen et al. 2017).
    Samples are drawn one pixel after another.

    Attributes:
        head: the likelihood of each pixel, by name; one with parameters of its own cannot be used.
        reach: size of the window: rows above a pixel, and columns to either side.
        features: number of features that the decoder gives to each channel of a pixel.
        hidden: hidden units of the network that combines the features with the window.
    """

    head: str = "bernoulli"
    reach: int = 5
    features: int = 8
    hidden: int = 32
    sequential: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse a head with parameters of its own."""
        maker = LIKELIHOODS.get(LIKELIHOODS.read(self.head).name)  # None for text that would import one
        if maker is None or (isclass(maker) and issubclass(maker, nn.Module)):
            raise ValueError(f"the head must be a registered likelihood without parameters, not {self.head}")
        super().__post_init__()

    def _head(self) -> Any:
        return LIKELIHOODS.make(self.head)

    @property
    def pixel_levels(self) -> int | None:
        """The number of levels of a pixel, which is the head's."""
        return self._head().pixel_levels

    @property
    def support(self) -> Support:
        """The support of a pixel: that of the head."""
        return self._head().support

    def start(self, mean: Mean) -> Mean:
        """Return zeros: at first the features carry no information."""
        return (0.0,) * self.features * len(mean)

    @nn.compact
    def __call__(self, output: Float[Array, "*b h w o"]) -> Autoregressive:
        """Map features to p(x | z)."""
        head, width, channels = self._head(), self.hidden, output.shape[-1] // self.features
        start = jnp.array(head.start((0.5,) * channels))
        lecun_normal = nn.initializers.lecun_normal()
        network = PixelNetwork(  # saved models have these names of parameters
            window=self.param("seen", lecun_normal, (2 * self.reach * (self.reach + 1) * channels, width)),
            features=self.param("told", lecun_normal, (output.shape[-1], width)),
            hidden=self.param("hidden_weights", lecun_normal, (width, width)),
            output=self.param("output", nn.initializers.zeros, (width, len(start))),
            bias=self.param("bias", lambda _: start),
        )
        return Autoregressive(output, network, head, self.reach)
