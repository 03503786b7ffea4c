"""A VAE is a few distributions: networks and densities joined into one Linen module."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flax_vae.distributions import Bernoulli, layers


class Inference(NamedTuple):
    """What a draw from the posterior gives an objective.

    The tuples run over the stochastic layers, top first; a flat VAE has one. The sample axis k always leads.

    Attributes:
        latents: draws z_l ~ q(z_l | z_<l, x), each "k b d".
        posteriors: q(z_l | z_<l, x), each with batch shape "b".
        priors: p(z_l | z_<l), broadcast against the latents.
        likelihood: p(x | z), with batch shape "k b".
    """

    latents: tuple[Array, ...]
    posteriors: tuple[Any, ...]
    priors: tuple[Any, ...]
    likelihood: Any


class VAE(nn.Module):
    """A variational autoencoder (Kingma & Welling 2014): p(x, z) = p(z) p(x | z) with its posterior q(z | x).

    Every part is a value that may be swapped for another of the same shape:

    Attributes:
        encoder: Linen module, images "b h w c" -> features "b f".
        posterior: Linen module, features "b f" -> q(z | x) with batch shape "b".
        prior: Linen module, () -> p(z).
        decoder: Linen module, latents "b d" -> what the likelihood takes, e.g. logits "b h w c".
        likelihood: function or Linen module, the decoder's output -> p(x | z) with batch shape "b".
        dtype: what encoder and decoder compute in, e.g. "bfloat16". Parameters keep their own type; latents, densities
            and losses have that of the images.
    """

    encoder: nn.Module
    posterior: nn.Module
    prior: nn.Module
    decoder: nn.Module
    likelihood: Callable[[Array], Any] = Bernoulli
    dtype: str = "float32"

    def features(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        """What the posterior sees of images."""
        return self.encoder(x.astype(self.dtype)).astype(x.dtype)

    def encode(self, x: Float[Array, "b h w c"]) -> Any:
        """q(z | x), batch shape "b"."""
        return self.posterior(self.features(x))

    def decode(self, z: Float[Array, "*k b d"]) -> Any:
        """p(x | z), batch shape "*k b": networks see one flat batch, whatever axes lead."""
        output = self.decoder(z.reshape(-1, z.shape[-1]).astype(self.dtype)).astype(z.dtype)
        return self.likelihood(output.reshape(z.shape[:-1] + output.shape[1:]))

    def infer(self, x: Float[Array, "b h w c"], key: Key[Array, ""], num_samples: int = 1) -> Inference:
        """Draw `num_samples` latents per image from the posterior, by reparameterisation, and decode them."""
        posterior = self.encode(x)
        return self.infer_at(posterior.sample(key, (num_samples,)), posterior)

    def infer_at(self, z: Float[Array, "k b d"], posterior: Any) -> Inference:
        """What objectives need of latents, however they were drawn."""
        latents, posteriors = zip(*layers(posterior, z), strict=True)
        priors = tuple(prior for _, prior in layers(self.prior(), z))
        return Inference(latents, posteriors, priors, self.decode(z))

    def generate(self, key: Key[Array, ""], num_samples: int, temperature: float | Array = 1.0) -> Any:
        """p(x | z) for `num_samples` latents z drawn from the prior, its scale times `temperature`."""
        return self.decode(self.prior().tempered(temperature).sample(key, (num_samples,)))

    def __call__(self, x: Float[Array, "b h w c"], key: Key[Array, ""]) -> Inference:
        """`infer`: what initialising needs, since it meets every part."""
        return self.infer(x, key)


@partial(jax.jit, static_argnums=(0, 2))
def init(vae: VAE, key: Key[Array, ""], image_shape: tuple[int, int, int]) -> Any:
    """Parameters of a fresh model, as a pytree, for images of one shape "h w c"; compiled once for all keys."""
    init_key, draw_key = jax.random.split(key)
    in_float32 = vae.clone(dtype="float32")  # whatever it is to compute in later
    return in_float32.init(init_key, jnp.zeros((1, *image_shape)), draw_key)["params"]


def variables(vae: VAE, params: Any) -> dict[str, Any]:
    """The parameters as Linen takes them, those of encoder and decoder in the type that these compute in."""
    networks = {name: params[name] for name in ("encoder", "decoder") if name in params}
    return {"params": params | jax.tree.map(lambda leaf: leaf.astype(vae.dtype), networks)}


def bind(vae: VAE, params: Any) -> VAE:
    """The model with its parameters, for a look at its parts: `bind(vae, params).encode(x)`."""
    return vae.bind(variables(vae, params))
