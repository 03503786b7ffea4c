"""A VAE is a few distributions: networks and densities joined into one Linen module."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flax_vae.distributions.base import Distribution, Draw, LatentDistribution
from flax_vae.models.likelihoods import BernoulliLikelihood
from flax_vae.models.protocol import Inference, Layer
from flax_vae.system.errors import UserError
from flax_vae.system.machine import warn_of_wrong_sums

Params = Mapping[str, Any]  # a pytree of arrays by the names of Linen's modules
Context = Float[Array | np.ndarray, "b v"] | None


class VAE(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014): p(x, z) = p(z) p(x | z) with its posterior q(z | x).

    Every part is a value that may be swapped for another of the same shape:

    Attributes:
        encoder: Linen module, images "b h w c" -> features "b f".
        posterior: Linen module, features "b f" -> q(z | x) with batch shape "b".
        prior: Linen module, () -> p(z).
        decoder: Linen module, latents "b d" -> what the likelihood takes, e.g. logits "b h w c".
        likelihood: a head or any function, the decoder's output -> p(x | z) with batch shape "b".
        dtype: what encoder and decoder compute in, e.g. "bfloat16". Parameters keep their own type; latents, densities
            and losses have that of the images.
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

    def features(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        """What the posterior is given: the encoder's features of images, and their context if there is one."""
        return beside(self.encoder(x.astype(self.dtype)).astype(x.dtype), self.context())

    def encode(self, x: Float[Array, "b h w c"]) -> LatentDistribution:
        """q(z | x), batch shape "b"."""
        return self.posterior(self.features(x))

    def decode(self, z: Float[Array, "*k b d"]) -> Distribution:
        """p(x | z), batch shape "*k b": networks get one flat batch, whatever axes lead."""
        z = beside(z, self.context())
        output = self.decoder(z.reshape(-1, z.shape[-1]).astype(self.dtype)).astype(z.dtype)
        return self.likelihood(output.reshape(z.shape[:-1] + output.shape[1:]))

    def infer(
        self,
        x: Float[Array, "b h w c"],
        key: Key[Array, ""],
        num_samples: int = 1,
        temperature: float | Float[Array, ""] = 1.0,
    ) -> Inference:
        """Draw `num_samples` latents per image by reparameterisation, and decode them.

        From the posterior; or from the posterior with its scale times `temperature`, which then is that of the layers.
        """
        return self._inference(self.encode(x).tempered(temperature).draw_layers(key, (num_samples,)))

    def infer_at(self, x: Float[Array, "b h w c"], latents: tuple[Float[Array, "k b _l"], ...]) -> Inference:
        """`infer` at latents that were drawn before, one array for each layer."""
        return self._inference(self.encode(x).layers_at(jnp.concatenate(latents, axis=-1)))

    def _inference(self, drawn: list[Draw]) -> Inference:
        z, found = with_priors(drawn, self.prior())
        return Inference(found, self.decode(z))

    def draw_prior(
        self, key: Key[Array, ""], num_samples: int, temperature: float | Array = 1.0
    ) -> Float[Array, "n d"]:
        """`num_samples` latents z from the prior, its scale times `temperature`; one for each context if it has any."""
        return draw(self.prior().tempered(temperature), key, num_samples)

    def generate(self, key: Key[Array, ""], num_samples: int, temperature: float | Array = 1.0) -> Distribution:
        """p(x | z) for latents z as of `draw_prior`."""
        return self.decode(self.draw_prior(key, num_samples, temperature))

    def __call__(self, x: Float[Array, "b h w c"], key: Key[Array, ""]) -> Inference:
        """`infer`, which runs every part: what initialising needs."""
        return self.infer(x, key)


def context_of(model: nn.Module) -> Float[Array, "b v"] | None:
    """What is bound beside the parameters of a conditional model."""
    return model.get_variable("context", "value")


def beside(x: Float[Array, "*k b f"], context: Context) -> Float[Array, "*k b g"]:
    """x and the context of each, if there is one."""
    if context is None:
        return x
    return jnp.concatenate([x, jnp.broadcast_to(context, (*x.shape[:-1], context.shape[-1]))], axis=-1)


def with_priors(drawn: list[Draw], prior: LatentDistribution) -> tuple[Float[Array, "k b d"], tuple[Layer, ...]]:
    """Draws layer by layer as one vector, and with the prior of each."""
    z = jnp.concatenate([z_l for z_l, _, _ in drawn], axis=-1)
    return z, tuple(Layer(*each, p) for each, (_, p) in zip(drawn, prior.layers(z), strict=True))


def draw(prior: LatentDistribution, key: Key[Array, ""], num_samples: int) -> Float[Array, "n d"]:
    """`num_samples` latents from a prior, or one for each context that it is given."""
    return prior.sample(key, (num_samples,) if prior.mean().ndim == 1 else ())


def with_dtype(model: nn.Module, dtype: str) -> nn.Module:
    """The model with its networks computing in `dtype`, where it lets one choose."""
    return model.clone(dtype=dtype) if hasattr(model, "dtype") else model


def with_remat(model: nn.Module) -> nn.Module:
    """The model with residual blocks whose gradients take less memory and more time, where its networks have any.

    Raises:
        UserError: they have none.
    """
    networks: dict[str, Any] = {name: getattr(model, name, None) for name in ("encoder", "decoder")}
    having = {name: network.clone(remat=True) for name, network in networks.items() if hasattr(network, "remat")}
    if not having:
        raise UserError("--remat is for networks of residual blocks: the presets residual_conv and ladder have them.")
    return model.clone(**having)


@partial(jax.jit, static_argnums=(0, 2, 3))
def init(model: nn.Module, key: Key[Array, ""], image_shape: tuple[int, int, int], context_dim: int = 0) -> Params:
    """Parameters of a fresh model, as a pytree, for images of one shape "h w c"; compiled once for all keys.

    Args:
        context_dim: size of the context of a conditional model.
    """
    init_key, draw_key = jax.random.split(key)
    in_float32 = with_dtype(model, "float32")  # whatever it is to compute in later
    context = {"context": {"value": jnp.zeros((1, context_dim))}} if context_dim else {}
    x, rngs = jnp.zeros((1, *image_shape)), {"params": init_key}
    return in_float32.apply(context, x, draw_key, rngs=rngs, mutable="params")[1]["params"]


def variables(model: nn.Module, params: Params, context: Context = None) -> dict[str, Any]:
    """All that Linen binds to the model; parameters of encoder and decoder in the type that these compute in."""
    warn_of_wrong_sums()  # here, since whatever is done with a model and its parameters comes by
    networks = {name: params[name] for name in ("encoder", "decoder") if name in params}
    dtype = getattr(model, "dtype", "float32")
    of_model = {"params": params | jax.tree.map(lambda leaf: leaf.astype(dtype), networks)}
    return of_model if context is None else of_model | {"context": {"value": jnp.asarray(context)}}


def bind(model: nn.Module, params: Params, context: Context = None) -> Any:
    """The model with its parameters, for a look at its parts: `bind(model, params).encode(x)`.

    Args:
        context: what a conditional model is given, a row for each image or one for all: labels as one-hot vectors, or
            vectors of any meaning. Encoder, decoder and prior see it (Sohn et al. 2015).
    """
    return model.bind(variables(model, params, context))
