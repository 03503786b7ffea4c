"""A model and an objective with state of their own: batch statistics, dropout, a codebook, a discriminator."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_vae import VAE, tutorial_dense, with_train
from flax_vae.objectives.terms import elbo_terms

MOMENTUM, DROPPED = 0.9, 0.25


class Codebook(nn.Module):
    """The nearest of `size` codes, each a running mean of the features nearest to it (van den Oord et al. 2017)."""

    size: int

    @nn.compact
    def __call__(self, h: jax.Array, train: bool) -> jax.Array:
        codes = self.variable("codebook", "codes", jax.random.normal, jax.random.key(0), (self.size, h.shape[-1]))
        counts = self.variable("codebook", "counts", jnp.ones, (self.size,))
        nearest = jnp.square(h[:, None] - codes.value).sum(-1).argmin(-1)
        if train:
            chosen = jax.nn.one_hot(nearest, self.size)
            sums = MOMENTUM * counts.value[:, None] * codes.value + (1 - MOMENTUM) * chosen.T @ h / len(h)
            counts.value = MOMENTUM * counts.value + (1 - MOMENTUM) * chosen.mean(0)
            codes.value = sums / counts.value[:, None]
        return h + jax.lax.stop_gradient(codes.value[nearest] - h)


class Normalised(nn.Module):
    """Dense, BatchNorm and dropout, as in any tutorial of Linen."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h = nn.Dense(16, use_bias=False)(x.reshape(x.shape[0], -1))
        h = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)(h))
        return nn.Dropout(DROPPED, deterministic=not train)(h)


class Quantised(nn.Module):
    """The code nearest to a linear function of x."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return Codebook(4)(nn.Dense(8)(x.reshape(x.shape[0], -1)), train)


class Encoder(nn.Module):
    """Normalised features, and the nearest codes to them."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        h = Normalised(name="normalised")(x, train)
        return jnp.concatenate([h, Codebook(4)(h, train)], axis=-1)


def stateful_vae(image_shape: tuple[int, int, int], network: type[nn.Module] = Encoder) -> VAE:
    """Return a dense VAE with an encoder that is another function while it is trained."""
    return tutorial_dense(image_shape, features=(16,)).clone(encoder=with_train(network(), train=True))


class Adversary(nn.Module):
    """ELBO, and a discriminator between latents and draws of the prior; the model raises the logits of its latents.

    The discriminator has a running average of that logit.
    """

    @nn.compact
    def __call__(self, model: Any, x: jax.Array, key: jax.Array, step: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        infer_key, prior_key = jax.random.split(key)
        inference = model.infer(x, infer_key)
        z, discriminator = inference.layers[0].z[0], nn.Dense(1)
        real, fake = discriminator(jax.random.normal(prior_key, z.shape))[:, 0], discriminator(z)[:, 0]
        average = self.variable("averages", "logit", jnp.zeros, ())
        if self.is_mutable_collection("averages") and not self.is_initializing():
            average.value = 0.5 * average.value + 0.5 * fake.mean()
        terms = elbo_terms(inference, x)
        losses = {"model": -terms["elbo"] - fake, "objective": nn.softplus(-real) + nn.softplus(fake)}
        return losses, terms | {"average_logit": jnp.broadcast_to(average.value, fake.shape)}
