"""Three models with exact evidences and posteriors, and an objective as a user would write it.

Models are cached, so that tests share their compiled programs.
"""

from collections.abc import Callable
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.scipy.special import logsumexp

from flax_vae import VAE, Normal, StandardNormal, bind, init, log_weights
from flax_vae.distributions import Chain
from flax_vae.models.protocol import Inference
from flax_vae.objectives.base import apply_objective

NOISE = 0.7  # standard deviation of the observations
LOG_NOISE = jnp.log(NOISE)
# Latents "3" to pixels "2 2 1"; orthogonal rows make the exact posterior a diagonal normal.
WEIGHTS = np.linalg.svd(np.random.default_rng(0).normal(size=(3, 4)))[2][:3] * np.array([[2.0], [1.0], [0.5]])
IMAGES = np.random.default_rng(1).normal(size=(5, 2, 2, 1)).astype(np.float32)


class Flatten(nn.Module):
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(len(x), -1)


class LinearDecoder(nn.Module):
    rows: tuple[tuple[float, ...], ...] = tuple(map(tuple, WEIGHTS))

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        weights = self.param("weights", lambda _: jnp.asarray(self.rows, jnp.float32))
        return (z @ weights).reshape(-1, 2, 2, 1)


class LinearPosterior(nn.Module):
    """p(z | x) = N(C W x / σ², C) with C = (I + W Wᵀ / σ²)⁻¹, with the mean moved by the parameter `shift`."""

    shift: float

    @nn.compact
    def __call__(self, x: jax.Array) -> Normal:
        variance = 1 / (1 + (WEIGHTS**2).sum(1) / NOISE**2)
        mean = x @ jnp.asarray(WEIGHTS.T * variance / NOISE**2, jnp.float32)
        shift = self.param("shift", nn.initializers.constant(self.shift), (3,))
        log_scale = self.param("log_scale", lambda _: jnp.asarray(0.5 * np.log(variance), jnp.float32))
        return Normal(mean + shift, jnp.broadcast_to(log_scale, mean.shape))


@cache
def linear_gaussian(shift: float = 0.0) -> VAE:
    """z ~ N(0, I), x = Wᵀz + σε: probabilistic PCA (Tipping & Bishop 1999), with a shifted exact posterior."""
    likelihood = partial(Normal, log_scale=LOG_NOISE, event_ndim=3)
    return VAE(Flatten(), LinearPosterior(shift), StandardNormal(3), LinearDecoder(), likelihood)


def log_evidence() -> np.ndarray:
    """log p(x) = log N(x; 0, WᵀW + σ²I) in nats, for each image."""
    covariance = WEIGHTS.T @ WEIGHTS + NOISE**2 * np.eye(4)
    return scipy.stats.multivariate_normal(np.zeros(4), covariance).logpdf(IMAGES.reshape(5, 4))


# Two layers of one latent each, z_1 ~ N(0, 1) and z_2 ~ N(0.8 z_1, 0.6²), to the same pixels.
LAYERED_WEIGHTS = np.random.default_rng(2).normal(size=(2, 4))
LAYERED_PRIOR = np.array([[1.0, 0.8], [0.8, 1.0]])  # covariance of both
LAYERED_POSTERIOR = np.linalg.inv(np.linalg.inv(LAYERED_PRIOR) + LAYERED_WEIGHTS @ LAYERED_WEIGHTS.T / NOISE**2)


class LayeredPrior(nn.Module):
    def __call__(self) -> Chain:
        def second(above: jax.Array) -> Normal:
            return Normal(0.8 * above, jnp.full_like(above, np.log(0.6)))

        return Chain(Normal(jnp.zeros(1), jnp.zeros(1)), (second,), (1, 1))


class LayeredPosterior(nn.Module):
    """p(z_1 | x) p(z_2 | z_1, x), each with the mean moved by the parameter `shift`."""

    shift: float

    @nn.compact
    def __call__(self, x: jax.Array) -> Chain:
        (variance, shared), (_, other) = LAYERED_POSTERIOR
        slope, scales = shared / variance, 0.5 * np.log([variance, other - shared**2 / variance])
        first, second = jnp.split(x @ jnp.asarray(LAYERED_WEIGHTS.T @ LAYERED_POSTERIOR / NOISE**2, jnp.float32), 2, -1)
        shift = self.param("shift", nn.initializers.constant(self.shift), (2,))
        log_scale = self.param("log_scale", lambda _: jnp.asarray(scales, jnp.float32))

        def below(above: jax.Array) -> Normal:
            mean = second + slope * (above - first) + shift[1]
            return Normal(mean, jnp.broadcast_to(log_scale[1:], mean.shape))

        return Chain(Normal(first + shift[0], jnp.broadcast_to(log_scale[:1], first.shape)), (below,), (1, 1))


@cache
def layered(shift: float = 0.0) -> VAE:
    """A hierarchy with the exact posterior except for the shift."""
    likelihood = partial(Normal, log_scale=LOG_NOISE, event_ndim=3)
    return VAE(
        Flatten(),
        LayeredPosterior(shift),
        LayeredPrior(),
        LinearDecoder(tuple(map(tuple, LAYERED_WEIGHTS))),
        likelihood,
    )


def layered_log_evidence() -> np.ndarray:
    """log p(x) = log N(x; 0, Wᵀ Σ W + σ²I) in nats, where Σ is the covariance of the prior."""
    covariance = LAYERED_WEIGHTS.T @ LAYERED_PRIOR @ LAYERED_WEIGHTS + NOISE**2 * np.eye(4)
    return scipy.stats.multivariate_normal(np.zeros(4), covariance).logpdf(IMAGES.reshape(5, 4))


# A conditional model: z ~ N(U c, I) and x = Wᵀz + Vᵀc + σε, with contexts c of two numbers.
CONTEXTS = np.random.default_rng(3).normal(size=(5, 2)).astype(np.float32)
TO_LATENTS, TO_PIXELS = np.random.default_rng(4).normal(size=(2, 3)), np.random.default_rng(5).normal(size=(2, 4))


class GivenPrior(nn.Module):
    def __call__(self) -> Normal:
        mean = self.parent.context() @ jnp.asarray(TO_LATENTS, jnp.float32)
        return Normal(mean, jnp.zeros_like(mean))


class GivenPosterior(nn.Module):
    """p(z | x, c) from the concatenation h of x and c."""

    @nn.compact
    def __call__(self, h: jax.Array) -> Normal:
        x, c = np.split(np.eye(6), [4], axis=1)  # select x and c from h
        variance = 1 / (1 + (WEIGHTS**2).sum(1) / NOISE**2)
        mean = h @ jnp.asarray(((x - c @ TO_PIXELS) @ WEIGHTS.T / NOISE**2 + c @ TO_LATENTS) * variance, jnp.float32)
        return Normal(mean, jnp.broadcast_to(jnp.asarray(0.5 * np.log(variance), jnp.float32), mean.shape))


@cache
def given() -> VAE:
    """A conditional model with its exact posterior."""
    likelihood = partial(Normal, log_scale=LOG_NOISE, event_ndim=3)
    decoder = LinearDecoder(tuple(map(tuple, np.concatenate([WEIGHTS, TO_PIXELS]))))
    return VAE(Flatten(), GivenPosterior(), GivenPrior(), decoder, likelihood)


def given_log_evidence() -> np.ndarray:
    """log p(x | c) = log N(x; Wᵀ U c + Vᵀc, WᵀW + σ²I) in nats, for each image with its context."""
    means = CONTEXTS @ (TO_LATENTS @ WEIGHTS + TO_PIXELS)
    covariance = WEIGHTS.T @ WEIGHTS + NOISE**2 * np.eye(4)
    return scipy.stats.multivariate_normal(np.zeros(4), covariance).logpdf(IMAGES.reshape(5, 4) - means)


@cache
def params_of(model: VAE, image_shape: tuple[int, int, int] = (2, 2, 1), context_dim: int = 0) -> dict:
    """Return the initial parameters of a model, also while a function is traced."""
    with jax.ensure_compile_time_eval():
        return init(model, jax.random.key(0), image_shape, context_dim)


@cache
def _compiled_terms(model: VAE, objective) -> Callable:
    return jax.jit(partial(apply_objective, model, objective))


def terms(objective, model: VAE, images: np.ndarray = IMAGES, key: jax.Array | None = None, step: int = 0) -> dict:
    """Return the loss and metrics of an objective at the initial parameters of a model."""
    key = jax.random.key(0) if key is None else key
    return _compiled_terms(model, objective)(params_of(model, images.shape[1:]), jnp.asarray(images), key, step)


@cache
def _compiled_infer(model: VAE, num_samples: int) -> Callable:
    return jax.jit(lambda params, key: bind(model, params).infer(jnp.asarray(IMAGES), key, num_samples))


def inference_of(model: VAE, num_samples: int = 1, key: jax.Array | None = None) -> Inference:
    """Return the inference of IMAGES, with the draw that objectives make with this key."""
    return _compiled_infer(model, num_samples)(params_of(model), jax.random.key(0) if key is None else key)


def gap(shift: float) -> float:
    """KL(q(z | x) || p(z | x)) in nats of `linear_gaussian(shift)`: normals of one covariance, a shift apart."""
    return 0.5 * (shift**2 * (1 + (WEIGHTS**2).sum(1) / NOISE**2)).sum()


def iwae(model, x, key, step):
    """The importance-weighted bound with eight samples, as a user would write it (Burda et al. 2016)."""
    weights = log_weights(model.infer(x, key, num_samples=8), x)
    return jnp.log(8.0) - logsumexp(weights, axis=0), {"spread": weights.std(0)}
