"""The convolutional VAE of the tutorial."""

import flax.linen as nn
from jaxtyping import Array, Float

from flax_vae.models.likelihoods import Mean
from flax_vae.models.vae import VAE
from flax_vae.nn import convolutions
from flax_vae.nn.layers import Conv, ImageShape, OutputBias, bias_init, dense
from flax_vae.presets.given import CONVOLUTIONAL, PRESETS, Part, assemble


class TutorialConvEncoder(nn.Module):
    """Conv 32 and 64, each with ReLU and 2x2 max-pooling, then 16 dense ReLU features.

    The 16 features start with a bias of 0.5, or some runs start dead. Their inputs are 3,136 numbers that are never
    negative, and the first steps of Adam move every weight by the rate, up or down: with all weights of a unit moving
    one way, its value moves by twice its spread over the images in a single step. Within 20 steps from a bias of 0 most
    of the units are negative for all images and so have no gradient; with only two of 16 left the loss stays above 320
    nats for an epoch. The bias leaves them room until the steps disagree. `benchmarks/dead_start.py` counts the runs.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        """Images "b h w c" of any size -> features "b 16"."""
        for features in (32, 64):
            x = convolutions.max_pool(nn.relu(Conv(features)(x)))
        return nn.relu(dense(16, bias_init=nn.initializers.constant(0.5))(x.reshape(x.shape[0], -1)))


class TutorialConvDecoder(nn.Module):
    """A dense ReLU layer to a quarter of the image's size, then convolutions 64, 32 and out, doubling twice.

    Image sizes that are no multiple of four are decoded to the next one and cropped.
    """

    image_shape: ImageShape
    output_bias: OutputBias = 0.0

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b h w c"]:
        """Latents "b d" -> images "b h w c", unbounded."""
        height, width, channels = self.image_shape
        rows, columns = -(-height // 4), -(-width // 4)
        h = nn.relu(dense(rows * columns * 64)(z)).reshape(z.shape[0], rows, columns, 64)
        h = nn.relu(Conv(64)(h))
        h = nn.relu(Conv(32, upsample=True)(h))
        h = Conv(channels, upsample=True, bias_init=bias_init(self.output_bias, self.image_shape))(h)
        return h[:, :height, :width]


@PRESETS.register("tutorial_conv", recipe=CONVOLUTIONAL)
def tutorial_conv(
    image_shape: ImageShape,
    latent_dim: int = 2,
    posterior: Part = None,
    prior: Part = None,
    likelihood: Part = None,
    mean: Mean | None = None,
) -> VAE:
    """The convolutional VAE of the tutorial: 134,165 parameters for 28x28x1 images and two latent dimensions.

    Args:
        image_shape: "h w c".
        latent_dim: number of latent dimensions, where no posterior and prior are given.
        posterior, prior, likelihood: the parts; by default a diagonal normal, N(0, I) and Bernoulli pixels.
        mean: of each channel of the images, at which the decoder starts; see `channel_means`.
    """
    return assemble(
        VAE, TutorialConvEncoder(), TutorialConvDecoder, image_shape, latent_dim, posterior, prior, likelihood, mean
    )
