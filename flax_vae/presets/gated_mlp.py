"""Gated dense networks: the default preset.

flax-vae train        8 epochs, 20 seconds on two cores of an AMD EPYC, test loss 259.55 nats per image (seed 0)
"""

from functools import partial

from flax_vae.models.vae import VAE
from flax_vae.nn.dense import DenseDecoder, DenseEncoder, GatedDense
from flax_vae.presets.spec import ModelSpec, preset


@preset(recipe={})
def gated_mlp(spec: ModelSpec, features: tuple[int, ...] = (300, 300)) -> VAE:
    """Gated dense layers, two of 300 each way (Tomczak & Welling 2018): quick, and good at density estimation."""
    decoder = partial(DenseDecoder, features=features[::-1], layer=GatedDense)
    return spec.assemble(VAE, DenseEncoder(features, GatedDense), decoder)
