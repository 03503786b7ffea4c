"""The dense VAE of the tutorial.

flax-vae train --preset tutorial_dense        15 epochs, 14 seconds on two cores of an AMD EPYC, test loss 265.71
                                              nats per image (seed 0)
"""

from functools import partial

from flax_vae.models.vae import VAE
from flax_vae.nn.dense import DenseDecoder, DenseEncoder
from flax_vae.presets.spec import ModelSpec, preset


@preset(recipe={"epochs": 15})
def tutorial_dense(spec: ModelSpec, features: tuple[int, ...] = (128,)) -> VAE:
    """The dense decoder of the tutorial, latents -> 128 ReLU -> pixels, with its mirror image as encoder."""
    return spec.assemble(VAE, DenseEncoder(features), partial(DenseDecoder, features=features[::-1]))
