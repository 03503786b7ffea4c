"""A hierarchy of spatial latents, with one top-down path for posterior, prior and decoder."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flax_vae.batches import X
from flax_vae.distributions import Distribution, Draw, LatentDistribution, Normal
from flax_vae.distributions.masked import masked
from flax_vae.models.binding import with_context
from flax_vae.models.checks import freeze_networks, refuse_other_output, refuse_other_parts, require_one_array
from flax_vae.models.layerwise import draw_prior, pair_with_priors
from flax_vae.models.likelihoods import with_event_ndim
from flax_vae.models.likelihoods.bernoulli import BernoulliLikelihood
from flax_vae.models.protocol import Inference, Layer, RandomKey, Temperature
from flax_vae.nn import layers
from flax_vae.nn.layers import ImageShape, Maps, OutputBias
from flax_vae.nn.module import Module

_MAX_LOG_SCALE = 5.0
# The log-scale at which posteriors start, relative to the prior. Posteriors as wide as the prior would feed the path
# nothing but noise, and it would learn to ignore them.
_START = -1.0
# Chooses the latents of a layer below the top: (number, prior, posterior) -> z, its log-density, and its distribution.
Choice = Callable[[int, Normal, Normal], Draw]


class Ladder(Module):
    """A VAE with latents of several sizes (Sønderby et al. 2016, Kingma et al. 2016, Child 2021).

        p(x, z) = p(z_1) Π_l p(z_l | z_<l) p(x | z)      q(z | x) = q(z_1 | x) Π_l q(z_l | z_<l, x)

    The top layer z_1 is one vector, with the prior and the posterior of a flat VAE. The layers below are maps "h w c".
    A path of residual blocks leads from the top to the image. It yields each layer's prior and, together with the
    image's features, its posterior, and it takes in the draw.

    Attributes:
        encoder: Linen module, images "b h w c" -> features at each size, the finest first.
        posterior: Linen module, features "b f" -> q(z_1 | x).
        prior: Linen module, () -> p(z_1).
        decoder: a `TopDown`.
        likelihood: a head or any function, the decoder's output -> p(x | z).
        dtype: type that encoder and decoder compute in; see `VAE`.
    """

    encoder: nn.Module
    posterior: nn.Module
    prior: nn.Module
    decoder: nn.Module
    likelihood: Callable[[Array], Any] = BernoulliLikelihood()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Check the networks, and make them hashable."""
        freeze_networks(self, encoder=1, posterior=1, prior=0, decoder=3)
        refuse_other_parts(self)
        super().__post_init__()

    def context(self) -> Float[Array, "b v"] | None:
        """Return the conditioning input of each image, such as its label; see `bind`."""
        return self.get_variable("context", "value")

    def mask(self) -> Bool[Array, "b ..."] | None:
        """Return True for each observed value of x, False for missing ones; None if all are observed."""
        return self.get_variable("mask", "value")

    def _maps(self, x: X) -> Maps:
        return self.encoder(require_one_array(x, self).astype(self.dtype))

    def _top_posterior(self, maps: Maps) -> LatentDistribution:
        return self.posterior(with_context(layers.wide(layers.flat(maps[-1])), self.context()))

    def encode(self, x: X) -> LatentDistribution:
        """Return q(z_1 | x) of the top layer, batch shape "b"."""
        return self._top_posterior(self._maps(x))

    def infer(self, x: X, key: RandomKey, num_samples: int = 1, temperature: Temperature = 1.0) -> Inference:
        """Draw `num_samples` latents per image by reparameterisation, and decode them; see `VAE.infer`."""
        top_key, key = jax.random.split(key)

        def choose(number: int, _: Normal, posterior: Normal) -> Draw:
            posterior = posterior.tempered(temperature)
            return *posterior.sample_and_log_prob(jax.random.fold_in(key, number)), posterior

        return self._infer(x, lambda top: top.tempered(temperature).draw_layers(top_key, (num_samples,)), choose)

    def infer_top(self, x: X, key: RandomKey, known: int | Int[Array, ""]) -> Inference:
        """Infer one sample, with the layers below the first `known` set to the means of their priors.

        The top counts as one layer, even if it is a chain.
        """
        top_key, key = jax.random.split(key)

        def choose(number: int, prior: Normal, posterior: Normal) -> Draw:
            z_l = posterior.sample(jax.random.fold_in(key, number))
            z_l = jnp.where(1 + number < known, z_l, prior.loc)
            return z_l, posterior.log_prob(z_l), posterior

        return self._infer(x, lambda top: top.draw_layers(top_key, (1,)), choose)

    def infer_at(self, x: X, latents: tuple[Float[Array, "k b ..."], ...]) -> Inference:
        """Infer at given latents, one array per layer."""
        count = len(latents) - sum(self.decoder.depths)

        def choose(number: int, _: Normal, posterior: Normal) -> Draw:
            z_l = latents[count + number]
            return z_l, posterior.log_prob(z_l), posterior

        return self._infer(x, lambda top: top.layers_at(jnp.concatenate(latents[:count], axis=-1)), choose)

    def _infer(self, x: X, draw: Callable[[LatentDistribution], list[Draw]], choose: Choice) -> Inference:
        """Infer with `draw` for the top's posterior, and `choose` for the layers below."""
        maps = self._maps(x)
        z, top = pair_with_priors(draw(self._top_posterior(maps)), self.prior())
        below, output = self.decoder(with_context(z, self.context()).astype(self.dtype), maps, choose)
        refuse_other_output(self.likelihood, output.shape[-3:], x.shape[1:])
        return Inference(top + below, masked(with_event_ndim(self.likelihood(output), 3), self.mask()))

    def decode_top(self, z: Float[Array, "n d"], choose: Callable[[int, Normal], Array]) -> Distribution:
        """Return p(x | z), batch shape "n", for latents of the top.

        `choose(number, prior)` returns the latents "1 n h w c" of each layer below.
        """

        def choose_from_prior(number: int, prior: Normal, _: Normal) -> Draw:
            z_l = choose(number, prior)
            return z_l, prior.log_prob(z_l), prior

        _, output = self.decoder(with_context(z, self.context())[None].astype(self.dtype), None, choose_from_prior)
        return with_event_ndim(self.likelihood(output[0]), 3)

    def generate(self, key: RandomKey, num_samples: int, temperature: Temperature = 1.0) -> Distribution:
        """Return p(x | z) for `num_samples` draws z from the prior, with all scales times `temperature`."""
        top_key, key = jax.random.split(key)
        z = draw_prior(self, top_key, num_samples, temperature)

        def draw_below(number: int, prior: Normal) -> Float[Array, "1 n h w c"]:
            return prior.tempered(temperature).sample(jax.random.fold_in(key, number))

        return self.decode_top(z, draw_below)

    def __call__(self, x: X, key: RandomKey) -> Inference:
        """Run `infer`, which calls every part, as initialisation needs."""
        return self.infer(x, key)


class TopDown(Module):
    """The path from the top layer to the image, with a stochastic layer before each residual block.

    Attributes:
        image_shape: "h w c" of the output.
        output_bias: initial value of each channel of the output.
        widths: channels at each size, the finest first.
        depths: number of stochastic layers at each size.
        channels: c of each layer's z "h w c".
        patch: side, in pixels, of the patch that makes one position at the finest size.
        remat: True to recompute the residual blocks in the gradient.
    """

    image_shape: ImageShape
    output_bias: OutputBias
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    channels: int
    patch: int
    remat: bool = False

    @nn.compact
    def __call__(
        self, z: Float[Array, "k b d"], maps: Maps | None, choose: Choice
    ) -> tuple[tuple[Layer, ...], Float[Array, "k b oh ow o"]]:
        """Return the layers below the top, and the decoder's output.

        Args:
            z: latents of the top, with the context if there is one.
            maps: features of the images at each size; None without images: posteriors then equal priors.
            choose: draws a layer's z, or supplies a given one.
        """
        lead, sizes = z.shape[:2], self._sizes()
        (rows, columns), width = sizes[-1], self.widths[-1]
        h = layers.dense(rows * columns * width, name="top")(z.reshape(-1, z.shape[-1]))
        h = layers.ResidualBlock(width, self.remat, name="block_top")(h.reshape(-1, rows, columns, width))
        below: list[Layer] = []
        for size in reversed(range(len(sizes))):
            width, (rows, columns) = self.widths[size], sizes[size]
            if size < len(sizes) - 1:
                h = layers.Conv(width, upsample=True, name=f"to_size_{size}")(h)[:, :rows, :columns]
            for number in range(self.depths[size]):
                name = f"{size}_{number}"  # explicit, since automatic names would change without posteriors
                prior = self._prior(h, lead, name)
                posterior = prior if maps is None else self._posterior(h, maps[size], prior, name)
                below.append(Layer(*choose(len(below), prior, posterior), prior))
                z_l = below[-1].z
                h += layers.Conv(width, name=f"take_in_{name}")(z_l.reshape(-1, *z_l.shape[2:]).astype(h.dtype))
                h = layers.ResidualBlock(width, self.remat, name=f"block_{name}")(h)
        return tuple(below), self._output(h).reshape(*lead, *self.image_shape[:2], -1)

    def _sizes(self) -> list[tuple[int, int]]:
        """Return the rows and columns at each size."""
        sides = [self.patch * 2**size for size in range(len(self.widths))]
        return [(-(-self.image_shape[0] // side), -(-self.image_shape[1] // side)) for side in sides]

    def _prior(self, h: Float[Array, "n h w f"], lead: tuple[Any, ...], name: str) -> Normal:
        """Return p(z_l | z_<l)."""
        head = layers.PerPixel(2 * self.channels, kernel_init=nn.initializers.zeros, name=f"prior_{name}")
        loc, log_scale = _split_in_two(head(layers.silu(h)), lead)
        return Normal(loc, _bounded(log_scale), event_ndim=3)

    def _posterior(
        self, h: Float[Array, "n h w f"], features: Float[Array, "b h w f"], prior: Normal, name: str
    ) -> Normal:
        """Return q(z_l | z_<l, x), parameterised relative to the prior (Vahdat & Kautz 2020)."""
        lead = prior.loc.shape[:2]
        tiled = jnp.broadcast_to(features, (lead[0], *features.shape)).reshape(-1, *features.shape[1:])
        hidden = layers.PerPixel(h.shape[-1], name=f"meet_{name}")(layers.silu(jnp.concatenate([h, tiled], axis=-1)))
        head = layers.PerPixel(2 * self.channels, name=f"posterior_{name}")
        shift, log_scale = _split_in_two(head(layers.silu(hidden)), lead)
        loc = prior.loc + jnp.exp(prior.log_scale) * shift
        return Normal(loc, prior.log_scale + _bounded(_START + log_scale), event_ndim=3)

    def _output(self, h: Float[Array, "n h w f"]) -> Float[Array, "n oh ow o"]:
        """Return the likelihood's input, at the size of the image."""
        height, width, channels = self.image_shape
        start = layers.bias_init(self.output_bias, self.image_shape)
        last = layers.Conv(self.patch**2 * channels, kernel_init=nn.initializers.zeros, bias_init=start, name="output")
        return layers.wide(layers.depth_to_space(last(layers.silu(h)), self.patch)[:, :height, :width])


def _split_in_two(maps: Float[Array, "n h w c2"], lead: tuple[Any, ...]) -> tuple[Array, Array]:
    """Split maps into two numbers per latent, "k b h w c" each."""
    maps = layers.wide(maps)
    first, second = jnp.split(maps.reshape(*lead, *maps.shape[1:]), 2, axis=-1)
    return first, second


def _bounded(log_scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """Soft-clip to ±5, so that scales neither overflow nor vanish."""
    return _MAX_LOG_SCALE * jnp.tanh(log_scale / _MAX_LOG_SCALE)
