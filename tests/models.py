"""A model that is known exactly, and an objective as a user would write it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.scipy.special import logsumexp

from flax_vae import VAE, Normal, StandardNormal, log_weights

NOISE = 0.7  # standard deviation of the observations
# Latents "3" to pixels "2 2 1"; orthogonal rows make the exact posterior a diagonal normal.
WEIGHTS = np.linalg.svd(np.random.default_rng(0).normal(size=(3, 4)))[2][:3] * np.array([[2.0], [1.0], [0.5]])
IMAGES = np.random.default_rng(1).normal(size=(5, 2, 2, 1)).astype(np.float32)


class Flatten(nn.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(len(x), -1)


class LinearDecoder(nn.Module):
    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        weights = self.param("weights", lambda _: jnp.asarray(WEIGHTS, jnp.float32))
        return (z @ weights).reshape(-1, 2, 2, 1)


class LinearPosterior(nn.Module):
    """p(z | x) = N(C W x / σ², C) with C = (I + W Wᵀ / σ²)⁻¹, moved away by the parameter `shift`."""

    shift: float

    @nn.compact
    def __call__(self, x: jax.Array) -> Normal:
        variance = 1 / (1 + (WEIGHTS**2).sum(1) / NOISE**2)
        mean = x @ jnp.asarray(WEIGHTS.T * variance / NOISE**2, jnp.float32)
        shift = self.param("shift", nn.initializers.constant(self.shift), (3,))
        log_scale = self.param("log_scale", lambda _: jnp.asarray(0.5 * np.log(variance), jnp.float32))
        return Normal(mean + shift, jnp.broadcast_to(log_scale, mean.shape))


def linear_gaussian(shift: float = 0.0) -> VAE:
    """z ~ N(0, I), x = Wᵀz + σε: probabilistic PCA (Tipping & Bishop 1999), its posterior exact but for the shift."""
    likelihood = partial(Normal, log_scale=jnp.log(NOISE), event_ndim=3)
    return VAE(Flatten(), LinearPosterior(shift), StandardNormal(3), LinearDecoder(), likelihood)


def log_evidence() -> np.ndarray:
    """log p(x) = log N(x; 0, WᵀW + σ²I) in nats, for each of the images."""
    covariance = WEIGHTS.T @ WEIGHTS + NOISE**2 * np.eye(4)
    return scipy.stats.multivariate_normal(np.zeros(4), covariance).logpdf(IMAGES.reshape(5, 4))


def gap(shift: float) -> float:
    """KL(q(z | x) || p(z | x)) in nats of `linear_gaussian(shift)`: normals of one covariance, a shift apart."""
    return 0.5 * (shift**2 * (1 + (WEIGHTS**2).sum(1) / NOISE**2)).sum()


def iwae(vae, x, key, step):
    """The importance-weighted bound with eight samples, as a user would write it (Burda et al. 2016)."""
    weights = log_weights(vae.infer(x, key, num_samples=8), x)
    return jnp.log(8.0) - logsumexp(weights, axis=0), {"spread": weights.std(0)}
