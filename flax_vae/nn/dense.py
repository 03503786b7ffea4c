"""Networks of dense layers on vectors, or on flattened images."""

from math import prod

import flax.linen as nn
from jaxtyping import Array, Float

from flax_vae.nn.layers import OutputBias, bias_init, dense, flat
from flax_vae.nn.module import Module


class ReluDense(Module):
    """max(0, Wx + b)."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        """Map features "b i" to "b o"."""
        return nn.relu(dense(self.features)(x))


class GatedDense(Module):
    """(Wx + b) · sigmoid(Vx + c): a gated linear unit (Dauphin et al. 2017)."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        """Map features "b i" to "b o"."""
        return dense(self.features, name="value")(x) * nn.sigmoid(dense(self.features, name="gate")(x))


class DenseEncoder(Module):
    """A stack of dense layers, from x, flattened, to features."""

    features: tuple[int, ...]
    layer: type[nn.Module] = ReluDense

    @nn.compact
    def __call__(self, x: Float[Array, "b ..."]) -> Float[Array, "b f"]:
        """Map images "b h w c" or vectors "b v" to features "b f"."""
        x = flat(x)
        for features in self.features:
            x = self.layer(features)(x)
        return x


class DenseDecoder(Module):
    """A stack of dense layers, from latents to x, flattened."""

    image_shape: tuple[int, ...]
    features: tuple[int, ...]
    layer: type[nn.Module] = ReluDense
    output_bias: OutputBias = 0.0

    @nn.compact
    def __call__(self, z: Float[Array, "b d"]) -> Float[Array, "b ..."]:
        """Map latents "b d" to images "b h w c" or vectors "b v", unbounded."""
        for features in self.features:
            z = self.layer(features)(z)
        start = bias_init(self.output_bias, self.image_shape)
        return dense(prod(self.image_shape), bias_init=start)(z).reshape(z.shape[0], *self.image_shape)
