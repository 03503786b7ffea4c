"""A hierarchy of spatial latents in which posterior, prior and decoder share one path from the top down."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flax_vae.distributions.base import Distribution, Draw, LatentDistribution
from flax_vae.distributions.normal import Normal
from flax_vae.models.likelihoods import BernoulliLikelihood
from flax_vae.models.protocol import Inference, Layer
from flax_vae.models.vae import beside, context_of, draw, with_priors
from flax_vae.nn.layers import (
    Conv,
    ImageShape,
    Maps,
    OutputBias,
    PerPixel,
    ResidualBlock,
    bias_init,
    dense,
    depth_to_space,
    silu,
    wide,
)

_MAX_LOG_SCALE = 5.0
# The log-scale at which posteriors start, relative to the prior. As wide as the prior they would show the path nothing
# but noise, and it would learn to do without them.
_START = -1.0
Choice = Callable[[int, Normal, Normal], Draw]


class Ladder(nn.Module):
    """A VAE with latents of several sizes (Sønderby et al. 2016, Kingma et al. 2016, Child 2021).

        p(x, z) = p(z_1) Π_l p(z_l | z_<l) p(x | z)      q(z | x) = q(z_1 | x) Π_l q(z_l | z_<l, x)

    The top layer z_1 is one vector, with a prior and a posterior as a flat VAE has them. Those below are maps "h w c".
    A path of residual blocks leads from the top to the image; it gives each layer its prior, with the features of an
    image its posterior too, and it takes in what is drawn.

    Attributes:
        encoder: Linen module, images "b h w c" -> features of each size, the finest first.
        posterior: Linen module, features "b f" -> q(z_1 | x).
        prior: Linen module, () -> p(z_1).
        decoder: a `TopDown`.
        likelihood: a head or any function, the decoder's output -> p(x | z).
        dtype: what encoder and decoder compute in; see `VAE`.
    """

    encoder: nn.Module
    posterior: nn.Module
    prior: nn.Module
    decoder: nn.Module
    likelihood: Callable[[Array], Any] = BernoulliLikelihood()
    dtype: str = "float32"

    def context(self) -> Float[Array, "b v"] | None:
        """What a conditional model is given beside each image, such as its label: see `bind`."""
        return context_of(self)

    def _top_posterior(self, maps: Maps) -> LatentDistribution:
        return self.posterior(beside(wide(maps[-1].reshape(maps[-1].shape[0], -1)), self.context()))

    def encode(self, x: Float[Array, "b h w c"]) -> LatentDistribution:
        """q(z_1 | x) of the top layer, batch shape "b"."""
        return self._top_posterior(self.encoder(x.astype(self.dtype)))

    def infer(
        self,
        x: Float[Array, "b h w c"],
        key: Key[Array, ""],
        num_samples: int = 1,
        temperature: float | Float[Array, ""] = 1.0,
    ) -> Inference:
        """Draw `num_samples` latents per image by reparameterisation, and decode them; see `VAE.infer`."""
        top_key, key = jax.random.split(key)
        maps = self.encoder(x.astype(self.dtype))
        drawn = self._top_posterior(maps).tempered(temperature).draw_layers(top_key, (num_samples,))

        def choose(number: int, _: Normal, posterior: Normal) -> Draw:
            posterior = posterior.tempered(temperature)
            return *posterior.sample_and_log_prob(jax.random.fold_in(key, number)), posterior

        return self._below(drawn, maps, choose)

    def infer_top(self, x: Float[Array, "b h w c"], key: Key[Array, ""], known: int | Int[Array, ""]) -> Inference:
        """`infer`, but below the first `known` layers latents are the means of their priors given those above.

        The top is one layer here, also where it is a chain of several.
        """
        top_key, key = jax.random.split(key)
        maps = self.encoder(x.astype(self.dtype))
        drawn = self._top_posterior(maps).draw_layers(top_key, (1,))

        def choose(number: int, prior: Normal, posterior: Normal) -> Draw:
            z_l = posterior.sample(jax.random.fold_in(key, number))
            z_l = jnp.where(1 + number < known, z_l, prior.loc)
            return z_l, posterior.log_prob(z_l), posterior

        return self._below(drawn, maps, choose)

    def infer_at(self, x: Float[Array, "b h w c"], latents: tuple[Float[Array, "k b ..."], ...]) -> Inference:
        """`infer` at latents that were drawn before, one array for each layer."""
        maps = self.encoder(x.astype(self.dtype))
        count = len(latents) - sum(self.decoder.depths)
        drawn = self._top_posterior(maps).layers_at(jnp.concatenate(latents[:count], axis=-1))

        def choose(number: int, _: Normal, posterior: Normal) -> Draw:
            z_l = latents[count + number]
            return z_l, posterior.log_prob(z_l), posterior

        return self._below(drawn, maps, choose)

    def _below(self, drawn: list[Draw], maps: Maps, choose: Choice) -> Inference:
        """The layers below the top, and the likelihood."""
        z, top = with_priors(drawn, self.prior())
        below, output = self.decoder(beside(z, self.context()).astype(self.dtype), maps, choose)
        return Inference(top + below, self.likelihood(output))

    def decode_top(
        self, z: Float[Array, "n d"], draw: Callable[[int, Normal], Float[Array, "1 n h w c"]]
    ) -> Distribution:
        """Decode the top layer's latents: p(x | z), batch shape "n", with `draw(number, prior)` for the maps below."""

        def choose(number: int, prior: Normal, _: Normal) -> Draw:
            z_l = draw(number, prior)
            return z_l, prior.log_prob(z_l), prior

        _, output = self.decoder(beside(z, self.context())[None].astype(self.dtype), None, choose)
        return self.likelihood(output[0])

    def generate(self, key: Key[Array, ""], num_samples: int, temperature: float | Array = 1.0) -> Distribution:
        """p(x | z) for `num_samples` draws z from the prior, the scale of every layer times `temperature`."""
        top_key, key = jax.random.split(key)
        z = draw(self.prior().tempered(temperature), top_key, num_samples)

        def draw_below(number: int, prior: Normal) -> Float[Array, "1 n h w c"]:
            return prior.tempered(temperature).sample(jax.random.fold_in(key, number))

        return self.decode_top(z, draw_below)

    def __call__(self, x: Float[Array, "b h w c"], key: Key[Array, ""]) -> Inference:
        """`infer`, which runs every part: what initialising needs."""
        return self.infer(x, key)


class TopDown(nn.Module):
    """The path from the top layer to the image, with a stochastic layer before each residual block.

    Attributes:
        image_shape: "h w c" of the output.
        output_bias: of each channel, at which the output starts.
        widths: channels at each size, the finest first.
        depths: stochastic layers at each size.
        channels: c of each layer's z "h w c".
        patch: side in pixels of what is one position at the finest size.
        remat: of the residual blocks.
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
        """The top layer's z, and features of images if there are any -> the layers below, and the decoder's output.

        `choose(number, prior, posterior)` draws a layer's z, or says what it is.
        """
        lead, sizes = z.shape[:2], self._sizes()
        rows, columns = sizes[-1]
        h = dense(rows * columns * self.widths[-1], name="top")(z.reshape(-1, z.shape[-1]))
        h = ResidualBlock(self.widths[-1], self.remat, name="block_top")(h.reshape(-1, rows, columns, self.widths[-1]))
        found: list[Layer] = []
        for size in reversed(range(len(sizes))):
            width, (rows, columns) = self.widths[size], sizes[size]
            if size < len(sizes) - 1:
                h = Conv(width, upsample=True, name=f"to_size_{size}")(h)[:, :rows, :columns]
            for number in range(self.depths[size]):
                layer = f"{size}_{number}"  # parts are named, since without an image there are no posteriors
                prior = self._prior(h, lead, layer)
                posterior = prior if maps is None else self._posterior(h, maps[size], prior, layer)
                found.append(Layer(*choose(len(found), prior, posterior), prior))
                z_l = found[-1].z
                h += Conv(width, name=f"take_in_{layer}")(z_l.reshape(-1, *z_l.shape[2:]).astype(h.dtype))
                h = ResidualBlock(width, self.remat, name=f"block_{layer}")(h)
        return tuple(found), self._output(h).reshape(*lead, *self.image_shape[:2], -1)

    def _sizes(self) -> list[tuple[int, int]]:
        """Rows and columns of each size."""
        sides = [self.patch * 2**size for size in range(len(self.widths))]
        return [(-(-self.image_shape[0] // side), -(-self.image_shape[1] // side)) for side in sides]

    def _prior(self, h: Float[Array, "n h w f"], lead: tuple[Any, ...], layer: str) -> Normal:
        """p(z_l | z_<l)."""
        head = PerPixel(2 * self.channels, kernel_init=nn.initializers.zeros, name=f"prior_{layer}")
        loc, log_scale = _two(head(silu(h)), lead)
        return Normal(loc, _bounded(log_scale), event_ndim=3)

    def _posterior(
        self, h: Float[Array, "n h w f"], of_image: Float[Array, "b h w f"], prior: Normal, layer: str
    ) -> Normal:
        """q(z_l | z_<l, x), as its difference from the prior (Vahdat & Kautz 2020)."""
        lead = prior.loc.shape[:2]
        tiled = jnp.broadcast_to(of_image, (lead[0], *of_image.shape)).reshape(-1, *of_image.shape[1:])
        hidden = PerPixel(h.shape[-1], name=f"meet_{layer}")(silu(jnp.concatenate([h, tiled], axis=-1)))
        shift, log_scale = _two(PerPixel(2 * self.channels, name=f"posterior_{layer}")(silu(hidden)), lead)
        loc = prior.loc + jnp.exp(prior.log_scale) * shift
        return Normal(loc, prior.log_scale + _bounded(_START + log_scale), event_ndim=3)

    def _output(self, h: Float[Array, "n h w f"]) -> Float[Array, "n oh ow o"]:
        """What the likelihood takes, at the size of the image."""
        height, width, channels = self.image_shape
        start = bias_init(self.output_bias, self.image_shape)
        last = Conv(self.patch**2 * channels, kernel_init=nn.initializers.zeros, bias_init=start, name="output")
        return wide(depth_to_space(last(silu(h)), self.patch)[:, :height, :width])


def _two(both: Float[Array, "n h w c2"], lead: tuple[Any, ...]) -> tuple[Array, Array]:
    """Two numbers for each latent, "k b h w c"."""
    both = wide(both)
    first, second = jnp.split(both.reshape(*lead, *both.shape[1:]), 2, axis=-1)
    return first, second


def _bounded(log_scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """Within ±5, smoothly: no output of a network makes a scale overflow or vanish."""
    return _MAX_LOG_SCALE * jnp.tanh(log_scale / _MAX_LOG_SCALE)
