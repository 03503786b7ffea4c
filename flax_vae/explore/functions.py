"""The functions of a model that the page needs, on single images and latents; `graph` compiles them.

They are deterministic: noise is an input. z is one vector: the top layer of a ladder, or all layers of any other model,
concatenated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions import Normal
from flax_vae.explore.compiler.tracer import Graph, Weights, graph
from flax_vae.models.binding import Params, bind, with_dtype
from flax_vae.models.layerwise import decode_top, layer_shapes
from flax_vae.models.protocol import provides, require
from flax_vae.nn.layers import ImageShape


@dataclass(frozen=True)
class Functions:
    """A model as functions of one image, one latent vector or noise; a conditional model takes a context "1 v" last.

    Attributes:
        model: a ladder, or a model with one latent vector.
        params: its parameters.
    """

    model: nn.Module
    params: Params

    def _bound(self, context: tuple[Array, ...]) -> Any:
        return bind(with_dtype(self.model, "float32"), self.params, *context)

    def encode(
        self, x: Float[Array, "1 h w c"], *context: Float[Array, "1 v"]
    ) -> tuple[Float[Array, " d"], Float[Array, "d n"]]:
        """Return the posterior q(z | x), approximated as N(centre, scale scaleᵀ).

        For z = f(ε) these are f(0) and the Jacobian of f at 0. This is exact for normals, with a lower triangular
        scale; for flows and chains of layers it is the linearisation at the centre.
        """
        posterior = self._bound(context).encode(x)
        zeros = jnp.zeros(posterior.noise_shape)

        def draw(noise: Float[Array, " n"]) -> Float[Array, " d"]:
            return posterior.from_noise(noise[None])[0]

        return draw(zeros), jax.jacfwd(draw)(zeros)

    def decode(self, z: Float[Array, "1 d"], *context: Float[Array, "1 v"]) -> Float[Array, "h w c"]:
        """Return the mean of p(x | z); in a ladder the layers below z are at the means of their priors."""
        return decode_top(self._bound(context), z, lambda _, prior: prior.mean()).mean()[0]

    def sample(
        self, noise: Float[Array, "1 n"], temperature: Float[Array, ""], *context: Float[Array, "1 v"]
    ) -> tuple[Float[Array, "h w c"], Float[Array, " d"]]:
        """Map noise ε ~ N(0, I) to an image and its z under the prior, with all scales times the temperature."""
        bound = self._bound(context)
        prior = bound.prior().tempered(temperature)
        stop = prior.noise_shape[0]
        z = jnp.reshape(prior.from_noise(noise[:, :stop]), (1, -1))

        def draw(_: int, prior: Normal) -> Float[Array, "1 1 h w c"]:
            nonlocal stop
            start, stop = stop, stop + prod(prior.noise_shape)
            return prior.tempered(temperature).from_noise(noise[:, start:stop].reshape(prior.loc.shape))

        return decode_top(bound, z, draw).mean()[0], z[0]


def sizes(model: nn.Module, params: Params, image_shape: ImageShape, context_dim: int = 0) -> tuple[int, int]:
    """Return the size d of z, and the size n of the noise that `Functions.sample` takes."""

    def mean() -> Array:
        bound = bind(model, params, jnp.zeros((1, context_dim)) if context_dim else None)
        return bound.prior().mean()

    shapes = layer_shapes(model, params, image_shape, context_dim)
    return jax.eval_shape(mean).shape[-1], sum(prod(shape.prior) for shape in shapes)


def graphs(
    model: nn.Module,
    params: Params,
    image_shape: ImageShape,
    context_dim: int = 0,
    names: Sequence[str] = ("encode", "decode", "sample"),
) -> dict[str, tuple[Graph, Weights]]:
    """Compile the functions of a model.

    Args:
        model, params: the model.
        image_shape: "h w c".
        context_dim: the size of the context of a conditional model.
        names: the methods of `Functions` to compile.

    Returns:
        The graph and the weights of each function, by name.

    Raises:
        UserError: the model has no latent vector, or computes something that the engine does not support.
    """
    if not provides(model, "ladder"):
        require(model, "single_layer", what="explore")
    functions, context = Functions(model, params), (jnp.zeros((1, context_dim)),) * bool(context_dim)
    z, noise = (jnp.zeros((1, size)) for size in sizes(model, params, image_shape, context_dim))
    examples = {"encode": (jnp.zeros((1, *image_shape)),), "decode": (z,), "sample": (noise, jnp.ones(()))}
    return {name: graph(getattr(functions, name), *examples[name], *context) for name in names}
