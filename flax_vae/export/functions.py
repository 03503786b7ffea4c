"""A model as functions without keys, "noise in, numbers out", its parameters closed over.

    encoder(x, noise)           z ~ q(z | x): the draw that noise becomes, from zeros the centre
    decoder(z)                  the mean of p(x | z)
    sampler(noise)              the mean of p(x | z) at the z that noise becomes under the prior
    log_likelihood(x, noise)    log 1/k Σ_k p(x, z_k) / q(z_k | x), z_k the draw that noise k becomes

All stochastic layers lie side by side in one vector z, top first, and so does their noise. A conditional model takes a
context as its last argument. The functions trace with sizes b and k that are not known: see `stablehlo` and `onnx`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.models.binding import Context, Params, bind, with_dtype
from flax_vae.models.layerwise import LayerShape, draw_by_layer, join_layers, layer_shapes, split_layers
from flax_vae.models.protocol import Inference
from flax_vae.nn.layers import ImageShape
from flax_vae.objectives.terms import log_weights

Shape = tuple[int | str, ...]


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
        latents, _ = draw_by_layer(self._bound(context), x, noise[None], self.layers, "posterior")
        return join_layers(latents)[0]

    def decoder(self, z: Array, context: Context = None) -> Array:
        """Latents "b D" -> images "b h w c"."""
        latents = split_layers(z[None], [layer.event for layer in self.layers])
        return self._bound(context).infer_at(self._blank(z), latents).likelihood.mean()[0]

    def sampler(self, noise: Array, context: Context = None) -> Array:
        """Noise "b m" -> images "b h w c"."""
        bound, x = self._bound(context), self._blank(noise)
        latents, _ = draw_by_layer(bound, x, noise[None], self.layers, "prior")
        return bound.infer_at(x, latents).likelihood.mean()[0]

    def log_likelihood(self, x: Array, noise: Array, context: Context = None) -> Array:
        """Images "b h w c" and the noise of k draws "k b n" -> the bound "b"."""
        bound = self._bound(context)
        latents, log_q = draw_by_layer(bound, x, noise, self.layers, "posterior")
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


def _size(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(map(prod, shapes))
