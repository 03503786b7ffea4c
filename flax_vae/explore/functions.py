"""What a page asks of a model: functions of single images and latents, which `graph` traces.

They draw nothing: noise is an input. Of a model with several layers of latents z is the top one as far as it is one
vector: of a `Ladder` its vector, of a flat model all layers side by side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions import Distribution, LatentDistribution, Normal
from flax_vae.explore.compiler.graph import Graph, Weights, graph
from flax_vae.models.ladder import Ladder
from flax_vae.models.protocol import is_flat, require_flat
from flax_vae.models.vae import Params, beside, bind, with_dtype
from flax_vae.nn.layers import ImageShape

Choose = Callable[[Normal], Float[Array, "k b h w c"]]  # the prior of a map of latents -> the map


@dataclass(frozen=True)
class Functions:
    """A model as functions of one image, one latent vector, noise; of a conditional model, and a context "1 v" last.

    Attributes:
        model: a `Ladder`, or whatever has one latent vector.
        params: its parameters.
    """

    model: nn.Module
    params: Params

    def _bound(self, context: tuple[Array, ...]) -> Any:
        return bind(with_dtype(self.model, "float32"), self.params, *context)

    def encode(
        self, x: Float[Array, "1 h w c"], *context: Float[Array, "1 v"]
    ) -> tuple[Float[Array, " d"], Float[Array, "d n"]]:
        """Where the posterior q(z | x) lies and how wide it is, as N(centre, scale scaleᵀ).

        With z = f(ε) these are f(0) and the Jacobian of f there. That is exact for normals, whose scale is lower
        triangular; of flows and of chains of layers it is the tangent at the centre.
        """
        posterior = self._bound(context).encode(x)
        zeros = jnp.zeros(posterior.noise_shape)

        def draw(noise: Float[Array, " n"]) -> Float[Array, " d"]:
            return posterior.from_noise(noise[None])[0]

        return draw(zeros), jax.jacfwd(draw)(zeros)

    def decode(self, z: Float[Array, "1 d"], *context: Float[Array, "1 v"]) -> Float[Array, "h w c"]:
        """The mean image of p(x | z); of a `Ladder` with the layers below z at the means of their priors."""
        model = self._bound(context)
        return _decoded(model, z, lambda prior: prior.mean()).mean()[0]

    def sample(
        self, noise: Float[Array, "1 n"], temperature: Float[Array, ""], *context: Float[Array, "1 v"]
    ) -> tuple[Float[Array, "h w c"], Float[Array, " d"]]:
        """The image and the z that noise ε ~ N(0, I) becomes, all scales of the prior times the temperature."""
        model = self._bound(context)
        prior = model.prior().tempered(temperature)
        end = prior.noise_shape[0]
        z = jnp.reshape(prior.from_noise(noise[:, :end]), (1, -1))

        def choose(prior: Normal) -> Float[Array, "1 1 h w c"]:
            nonlocal end
            begin, end = end, end + prod(prior.noise_shape)
            return prior.tempered(temperature).from_noise(noise[:, begin:end].reshape(prior.loc.shape))

        return _decoded(model, z, choose).mean()[0], z[0]

    def sizes(self, *context: Float[Array, "1 v"]) -> tuple[int, int]:
        """The size d of z, and the size n of the noise that `sample` takes."""
        of_layers: list[int] = []

        def choose(prior: Normal) -> Float[Array, "1 1 h w c"]:
            of_layers.append(prod(prior.noise_shape))
            return prior.mean()

        def latents() -> Float[Array, " d"]:
            model = self._bound(context)
            prior = model.prior()
            of_layers.append(prod(prior.noise_shape))
            z = jnp.reshape(prior.mean(), (1, -1))
            _decoded(model, z, choose)
            return z[0]

        return jax.eval_shape(latents).shape[0], sum(of_layers)


def _decoded(model: Any, z: Float[Array, "1 d"], choose: Choose) -> Distribution:
    """p(x | z), the layers below z, if it has any, as `choose` says."""
    if is_flat(model):
        return model.decode(z)

    def each(_: int, prior: Normal, __: Normal) -> tuple[Array, Array, LatentDistribution]:
        z_l = choose(prior)
        return z_l, prior.log_prob(z_l), prior

    _, output = model.decoder(beside(z, model.context())[None], None, each)
    return model.likelihood(output[0])


def graphs(
    model: nn.Module,
    params: Params,
    image_shape: ImageShape,
    context_dim: int = 0,
    names: Sequence[str] = ("encode", "decode", "sample"),
) -> dict[str, tuple[Graph, Weights]]:
    """The graphs of a model's functions.

    Args:
        model, params: the model.
        image_shape: "h w c".
        context_dim: size of the context of a conditional model.
        names: those of `Functions` that are wanted.

    Raises:
        UserError: a model without a latent vector, or one that computes what the engine cannot.
    """
    if not isinstance(model, Ladder):
        require_flat(model, "explore")
    functions, context = Functions(model, params), (jnp.zeros((1, context_dim)),) * bool(context_dim)
    z, noise = (jnp.zeros((1, size)) for size in functions.sizes(*context))
    examples = {"encode": (jnp.zeros((1, *image_shape)),), "decode": (z,), "sample": (noise, jnp.ones(()))}
    return {name: graph(getattr(functions, name), *examples[name], *context) for name in names}
