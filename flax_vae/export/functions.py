"""A model as functions of arrays, without random keys: noise is an argument, and the parameters are closed over.

    encoder(x, noise)           z ~ q(z | x), mapped from noise; zeros give the posterior's centre
    decoder(z)                  the mean of p(x | z)
    sampler(noise)              the mean of p(x | z) for z ~ p(z), mapped from noise
    log_likelihood(x, noise)    log 1/k Σ_k p(x, z_k) / q(z_k | x) for z_k ~ q(z | x), mapped from noise k

The latents of all stochastic layers are concatenated into one vector z, top first, and so is their noise. A conditional
model takes a context as its last argument. The functions can be traced with symbolic sizes b and k.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.batches import blank
from flax_vae.models.binding import Context, Params, bind, with_dtype
from flax_vae.models.layerwise import LayerShape, draw_by_layer, join_layers, layer_shapes, split_layers
from flax_vae.objectives.terms import log_weights


@dataclass(frozen=True)
class Argument:
    """An argument or a result of a function: its name, its shape ("b" and "k" may be any size), and its meaning."""

    name: str
    shape: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class ModelFunction:
    """A function of float32 arrays with its signature.

    Attributes:
        name: the name of the function and of its files.
        call: the function.
        arguments: its arguments, in order.
        result: its result.
    """

    name: str
    call: Callable[..., Array]
    arguments: tuple[Argument, ...]
    result: Argument


def model_functions(
    model: nn.Module, params: Params, shape: tuple[int, ...], context_dim: int = 0
) -> tuple[ModelFunction, ...]:
    """Return the functions of a model, for examples of one shape.

    Args:
        model: a `VAE`, a `Ladder`, or another model with `infer_at`.
        params: its parameters.
        shape: the shape of an example.
        context_dim: the size of the context of a conditional model, or 0.
    """
    model = with_dtype(model, "float32")
    layers = layer_shapes(model, params, shape, context_dim)
    *shapes, _ = zip(*layers, strict=True)
    events, posterior, prior = (sum(map(prod, each)) for each in shapes)
    x = Argument("x", ("b", *shape), "images with pixels in [0, 1]" if len(shape) == 3 else "examples")
    z = Argument("z", ("b", events), "latents of all stochastic layers, concatenated, top first")
    mean = Argument("mean", ("b", *shape), "the mean of p(x | z)")
    noise = Argument("noise", ("b", posterior), "draws from N(0, I); zeros for the centre of q(z | x)")
    noises = Argument("noise", ("k", "b", posterior), "draws from N(0, I), k for each image")
    prior_noise = Argument("noise", ("b", prior), layers[0].noise_meaning)
    bound = Argument("log_likelihood", ("b",), "the importance-weighted bound on log p(x) with k draws, in nats")
    context = (Argument("context", ("b", context_dim), "the context of each image, such as its one-hot label"),)
    last = context if context_dim else ()
    functions = _Functions(model, params, shape, layers)
    return (
        ModelFunction("encoder", functions.encoder, (x, noise, *last), z),
        ModelFunction("decoder", functions.decoder, (z, *last), mean),
        ModelFunction("sampler", functions.sampler, (prior_noise, *last), mean),
        ModelFunction("log_likelihood", functions.log_likelihood, (x, noises, *last), bound),
    )


@dataclass(frozen=True, eq=False)
class _Functions:
    """The model's functions as methods."""

    model: nn.Module
    params: Params
    shape: tuple[int, ...]
    layers: tuple[LayerShape, ...]

    def encoder(self, x: Array, noise: Array, context: Context = None) -> Array:
        """Map examples "b ..." and noise "b n" to latents "b d"."""
        latents, _ = draw_by_layer(self._bound(context), x, noise[None], self.layers, "posterior")
        return join_layers(latents)[0]

    def decoder(self, z: Array, context: Context = None) -> Array:
        """Map latents "b d" to examples "b ..."."""
        latents = split_layers(z[None], [layer.event for layer in self.layers])
        return self._bound(context).infer_at(self._blank(z), latents).likelihood.mean()[0]

    def sampler(self, noise: Array, context: Context = None) -> Array:
        """Map noise "b m" to examples "b ..."."""
        bound, x = self._bound(context), self._blank(noise)
        latents, _ = draw_by_layer(bound, x, noise[None], self.layers, "prior")
        return bound.infer_at(x, latents).likelihood.mean()[0]

    def log_likelihood(self, x: Array, noise: Array, context: Context = None) -> Array:
        """Map examples "b ..." and noise "k b n" to the bound "b"."""
        bound = self._bound(context)
        latents, log_q = draw_by_layer(bound, x, noise, self.layers, "posterior")
        inference = bound.infer_at(x, latents)
        # The density of a draw from known noise is known too, so no flow has to be inverted.
        layers = (layer._replace(log_q=log_q_l) for layer, log_q_l in zip(inference.layers, log_q, strict=True))
        log_w = log_weights(inference._replace(layers=tuple(layers)), x)
        return jax.nn.logsumexp(log_w, axis=0) - jnp.log(noise.shape[0])

    def _bound(self, context: Context) -> Any:
        return bind(self.model, self.params, context)

    def _blank(self, like: Float[Array, "b _n"]) -> Float[Array, "b ..."]:
        """Return placeholder examples, for results that do not depend on x."""
        return blank(self.shape, (like.shape[0],))
