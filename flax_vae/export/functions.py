"""A model as functions without keys, "noise in, numbers out", its parameters closed over.

    encoder(x, noise)           z ~ q(z | x): the draw that noise becomes, from zeros the centre
    decoder(z)                  the mean of p(x | z)
    sampler(noise)              the mean of p(x | z) at the z that noise becomes under the prior
    log_likelihood(x, noise)    log 1/k Σ_k p(x, z_k) / q(z_k | x), z_k the draw that noise k becomes

All stochastic layers lie side by side in one vector z, top first, and so does their noise. A conditional model takes a
context as its last argument. The functions trace with sizes b and k that are not known: see `stablehlo` and `onnx`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.models.protocol import Inference, Layer
from flax_vae.models.vae import Context, Params, bind, with_dtype
from flax_vae.nn.layers import ImageShape
from flax_vae.objectives.terms import log_weights

Shape = tuple[int | str, ...]
Which = Literal["prior", "posterior"]


@dataclass(frozen=True)
class Argument:
    """What a function takes or gives: its name, its shape with "b" and "k" for sizes that are free, its meaning."""

    name: str
    shape: Shape
    meaning: str


@dataclass(frozen=True)
class ModelFunction:
    """A function of float32 arrays with what there is to know of it.

    Attributes:
        name: of the function, and of its files.
        call: the function.
        arguments: what it takes, in order.
        result: what it gives.
    """

    name: str
    call: Callable[..., Array]
    arguments: tuple[Argument, ...]
    result: Argument


class LayerShape(NamedTuple):
    """Of a stochastic layer the shape of an event, and of the noise that posterior and prior make one from."""

    event: tuple[int, ...]
    posterior: tuple[int, ...]
    prior: tuple[int, ...]


def layer_shapes(
    model: nn.Module, params: Params, image_shape: ImageShape, context_dim: int = 0
) -> tuple[LayerShape, ...]:
    """The shapes of the stochastic layers, top first."""

    def look(params: Params) -> list[tuple[Array, Array, Array]]:
        bound = bind(model, params, jnp.zeros((1, context_dim)) if context_dim else None)
        found = bound.infer(jnp.zeros((1, *image_shape)), jax.random.key(0)).layers
        return [
            (layer.z[0, 0], jnp.zeros(layer.posterior.noise_shape), jnp.zeros(layer.prior.noise_shape))
            for layer in found
        ]

    return tuple(LayerShape(*(each.shape for each in layer)) for layer in jax.eval_shape(look, params))


def model_functions(
    model: nn.Module, params: Params, image_shape: ImageShape, context_dim: int = 0
) -> tuple[ModelFunction, ...]:
    """The functions of a model, for images of one shape.

    Args:
        model: a `VAE`, a `Ladder`, or another with `infer_at`.
        params: its parameters.
        image_shape: "h w c".
        context_dim: size of the context of a conditional model.
    """
    model = with_dtype(model, "float32")
    layers = layer_shapes(model, params, image_shape, context_dim)
    events, posterior, prior = (_size(each) for each in zip(*layers, strict=True))
    chosen = " but for the first number, which chooses a component" if layers[0].prior != layers[0].event else ""
    x = Argument("x", ("b", *image_shape), "images with pixels in [0, 1]")
    z = Argument("z", ("b", events), "latents, all stochastic layers side by side, top first")
    mean = Argument("mean", ("b", *image_shape), "the mean of p(x | z)")
    noise = Argument("noise", ("b", posterior), "draws from N(0, I); zeros for the centre of q(z | x)")
    noises = Argument("noise", ("k", "b", posterior), "draws from N(0, I), k for each image")
    of_prior = Argument("noise", ("b", prior), f"draws from N(0, I), times the temperature{chosen}")
    bound = Argument("log_likelihood", ("b",), "the importance-weighted bound on log p(x) of k draws, in nats")
    context = (Argument("context", ("b", context_dim), "what the model is given beside each image"),)
    given = context if context_dim else ()
    of = _Functions(model, params, image_shape, layers)
    return (
        ModelFunction("encoder", of.encoder, (x, noise, *given), z),
        ModelFunction("decoder", of.decoder, (z, *given), mean),
        ModelFunction("sampler", of.sampler, (of_prior, *given), mean),
        ModelFunction("log_likelihood", of.log_likelihood, (x, noises, *given), bound),
    )


@dataclass(frozen=True, eq=False)
class _Functions:
    """The functions, which close over this."""

    model: nn.Module
    params: Params
    image_shape: ImageShape
    layers: tuple[LayerShape, ...]

    def encoder(self, x: Array, noise: Array, context: Context = None) -> Array:
        """Images "b h w c" and noise "b n" -> latents "b D"."""
        latents, _ = self._draw(self._bound(context), x, noise[None], "posterior")
        return jnp.concatenate([z.reshape(*z.shape[1:2], -1) for z in latents], axis=-1)

    def decoder(self, z: Array, context: Context = None) -> Array:
        """Latents "b D" -> images "b h w c"."""
        latents = _split(z[None], [layer.event for layer in self.layers])
        return self._bound(context).infer_at(self._blank(z), latents).likelihood.mean()[0]

    def sampler(self, noise: Array, context: Context = None) -> Array:
        """Noise "b m" -> images "b h w c"."""
        bound, x = self._bound(context), self._blank(noise)
        latents, _ = self._draw(bound, x, noise[None], "prior")
        return bound.infer_at(x, latents).likelihood.mean()[0]

    def log_likelihood(self, x: Array, noise: Array, context: Context = None) -> Array:
        """Images "b h w c" and the noise of k draws "k b n" -> the bound "b"."""
        bound = self._bound(context)
        latents, log_q = self._draw(bound, x, noise, "posterior")
        found = bound.infer_at(x, latents)
        # Of a draw whose noise is known the density is too: no flow has to be inverted for that of `found`.
        layers = (layer._replace(log_q=log_q_l) for layer, log_q_l in zip(found.layers, log_q, strict=True))
        known = Inference(tuple(layers), found.likelihood)
        return jax.nn.logsumexp(log_weights(known, x), axis=0) - jnp.log(noise.shape[0])

    def _bound(self, context: Context) -> Any:
        return bind(self.model, self.params, context)

    def _blank(self, like: Float[Array, "b _n"]) -> Float[Array, "b h w c"]:
        """Images for what does not depend on them."""
        return jnp.zeros((like.shape[0], *self.image_shape))

    def _draw(
        self, bound: Any, x: Float[Array, "b h w c"], noise: Float[Array, "k b n"], which: Which
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The latents of each layer that noise becomes under its posterior or prior, and their log-densities "k b".

        A layer depends on those above it alone: while those below are not known, zeros stand in their place. What this
        computes again for every layer, compilers compute once.
        """
        latents = [jnp.zeros((*noise.shape[:2], *layer.event)) for layer in self.layers]
        log_densities: list[Array] = []
        for i, of_layer in enumerate(_split(noise, [getattr(layer, which) for layer in self.layers])):
            layer: Layer = bound.infer_at(x, tuple(latents)).layers[i]
            latents[i], log_density = getattr(layer, which).from_noise_and_log_prob(of_layer)
            log_densities.append(log_density)
        return tuple(latents), tuple(log_densities)


def _size(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(map(prod, shapes))


def _split(flat: Float[Array, "k b n"], shapes: Sequence[tuple[int, ...]]) -> tuple[Float[Array, "k b ..."], ...]:
    """Each layer's part of what lies side by side, in its shape."""
    ends = list(accumulate(map(prod, shapes)))
    parts = jnp.split(flat, ends[:-1], axis=-1)
    return tuple(part.reshape(*flat.shape[:2], *shape) for part, shape in zip(parts, shapes, strict=True))
