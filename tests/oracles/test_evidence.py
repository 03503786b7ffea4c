"""`log_likelihood` of nonlinear models against quadrature and annealed importance sampling."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from known_models import IMAGES, NOISE, WEIGHTS, linear_gaussian, log_evidence
from scipy.special import logsumexp

from flax_vae import IWAE, VAE, Batch, Config, FullNormal, StandardNormal, bind, init, log_likelihood
from flax_vae.batches import to_float
from flax_vae.nn.dense import DenseDecoder, DenseEncoder
from flax_vae.objectives.base import apply_objective
from flax_vae.runs.models import make_model

KEY = jax.random.key(0)


def parameters(model: VAE, image_shape: tuple[int, int, int]) -> Any:
    """Draw parameters and biases; posteriors are wide and near 0, as importance sampling requires."""
    rng = np.random.default_rng(0)

    def drawn(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        size = len(leaf.shape) < 2 or leaf.shape[0]
        return np.float32(rng.normal(size=leaf.shape) / np.sqrt(size))

    params = jax.tree.map(drawn, jax.eval_shape(lambda: init(model, KEY, image_shape)))
    for part in ("posterior", *({"prior"} & params.keys())):
        params[part] = jax.tree.map(lambda leaf: leaf * np.float32(0.3), params[part])
    heads = params["posterior"].get("diagonal", params["posterior"])
    heads["log_var"]["bias"][:] = 0.3
    return jax.tree.map(jnp.asarray, params)


def pixels(image_shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, *image_shape), np.uint8)


def quadrature(model: VAE, params: Any, images: np.ndarray, latent_dim: int) -> np.ndarray:
    """Return log ∫ p(z) p(x | z) dz by the trapezoidal rule, to about 1e-4 nats because ReLUs have kinks."""
    axis = np.linspace(-12, 12, 2401 if latent_dim == 1 else 161)
    grid = np.stack(np.meshgrid(*[axis] * latent_dim), -1).reshape(-1, latent_dim)
    log_cell = latent_dim * np.log(axis[1] - axis[0])

    @jax.jit
    def log_joint(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        bound = bind(model, params)
        log_prior = bound.prior().log_prob(z)
        return log_prior, log_prior + bound.decode(z[:, None]).log_prob(to_float(images)).T

    log_prior, log_joints = map(np.float64, log_joint(jnp.asarray(grid, jnp.float32)))
    np.testing.assert_allclose(logsumexp(log_prior) + log_cell, 0, atol=1e-3)  # the grid covers the prior
    return logsumexp(log_joints, axis=1) + log_cell


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("likelihood", "prior", "posterior", "latent_dim", "image_shape"),
    [
        ("bernoulli", "normal", "diagonal", 1, (7, 7, 1)),
        ("categorical", "normal", "diagonal", 1, (2, 2, 1)),
        ("per_pixel_normal", "mixture", "full", 2, (2, 2, 1)),
        ("discretized_logistic", "flow", "full", 2, (2, 2, 1)),
    ],
)
def test_it_is_the_integral_over_the_latents(
    likelihood: Any, prior: Any, posterior: Any, latent_dim: int, image_shape: tuple[int, int, int]
) -> None:
    config = Config(
        preset="tutorial_dense", likelihood=likelihood, prior=prior, posterior=posterior, latent_dim=latent_dim
    )
    images = pixels(image_shape)
    if likelihood == "bernoulli":
        images = images // 128 * 255
    model = make_model(config, image_shape)
    params = parameters(model, image_shape)
    expected = quadrature(model, params, images, latent_dim)
    bound, error, _ = log_likelihood(model, params, images, KEY, 20_000)
    assert (np.abs(bound - expected) < 4 * error).all()
    assert (error < 0.03).all()


def annealed(
    model: VAE, params: Any, image: jax.Array, key: jax.Array, chains: int = 100, steps: int = 100, size: float = 0.2
) -> tuple[jax.Array, jax.Array]:
    """Return log p(x) by annealed importance sampling (Neal 2001; for decoders Wu et al. 2017), and its standard error.

    The path from the prior to the posterior is p(z) p(x | z)^β. The transition at each β is Hamiltonian Monte Carlo
    with five leapfrog steps.
    """
    bound = bind(model, params)

    def log_likelihoods(z: jax.Array) -> jax.Array:
        return bound.decode(z[:, None]).log_prob(image[None])[:, 0]

    def log_target(z: jax.Array, beta: jax.Array) -> jax.Array:
        return bound.prior().log_prob(z) + beta * log_likelihoods(z)

    def anneal(carry: tuple, betas_and_key: tuple) -> tuple[tuple, None]:
        (z, log_w), (before, beta, key) = carry, betas_and_key
        log_w += (beta - before) * log_likelihoods(z)
        force = jax.grad(lambda z: log_target(z, beta).sum())
        momentum_key, accept_key = jax.random.split(key)
        momentum = jax.random.normal(momentum_key, z.shape)

        def leapfrog(_: int, state: tuple) -> tuple:
            z, half = state
            z = z + size * half
            return z, half + size * force(z)

        moved, after = jax.lax.fori_loop(0, 5, leapfrog, (z, momentum + 0.5 * size * force(z)))
        after -= 0.5 * size * force(moved)
        energy = 0.5 * ((after**2).sum(-1) - (momentum**2).sum(-1))
        log_accept = log_target(moved, beta) - log_target(z, beta) - energy
        accepted = jnp.log(jax.random.uniform(accept_key, log_accept.shape)) < log_accept
        return (jnp.where(accepted[:, None], moved, z), log_w), None

    start_key, key = jax.random.split(key)
    betas = jnp.linspace(0, 1, steps + 1) ** 2
    start = bound.prior().sample(start_key, (chains,)), jnp.zeros(chains)
    (_, log_w), _ = jax.lax.scan(anneal, start, (betas[:-1], betas[1:], jax.random.split(key, steps)))
    w = jax.nn.softmax(log_w)
    return jax.nn.logsumexp(log_w) - jnp.log(chains), jnp.sqrt((w**2).sum() - 1 / chains)


def annealed_each(model: VAE, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    estimate = jax.jit(lambda pair: annealed(model, params, *pair))
    return jax.lax.map(estimate, (images, jax.random.split(KEY, len(images))))


def test_annealed_importance_sampling_matches_a_known_evidence() -> None:
    model = linear_gaussian()
    found, error = annealed_each(model, init(model, KEY, (2, 2, 1)), jnp.asarray(IMAGES))
    assert (error < 0.05).all()
    assert (np.abs(found - log_evidence()) < 4 * error).all()


@pytest.mark.slow
def test_annealed_importance_sampling_agrees() -> None:
    """Its draws start at the prior, so that an error of the encoder cannot affect both estimates."""
    model = VAE(DenseEncoder((16,)), FullNormal(3), StandardNormal(3), DenseDecoder((4, 4, 1), (16,)))
    params, images = parameters(model, (4, 4, 1)), pixels((4, 4, 1)) // 128 * 255
    found, error = annealed_each(model, params, to_float(images))
    bound, its_error, _ = log_likelihood(model, params, images, KEY, 20_000)
    assert (np.hypot(error, its_error) < 0.05).all()
    assert (np.abs(found - bound) < 4 * np.hypot(error, its_error)).all()


def test_of_half_of_the_values_it_is_the_evidence_of_the_observed_ones() -> None:
    """log p(x_observed) = log N(x_observed; 0, (WᵀW + σ²I)_observed), also for the gradient of the IWAE bound.

    The bound on masked values is MIWAE's (Mattei & Frellsen 2019). The encoder sees zeros for missing values.
    """
    model = linear_gaussian()
    params = init(model, KEY, (2, 2, 1))
    params = params | {"posterior": params["posterior"] | {"log_scale": jnp.zeros(3)}}  # wider than any posterior
    observed = np.random.default_rng(0).random((5, 4)) > 0.5
    batch = Batch(np.where(observed.reshape(IMAGES.shape), IMAGES, np.nan), mask=observed.reshape(IMAGES.shape))
    bound, error, _ = log_likelihood(model, params, batch, KEY, 20_000)

    def evidence(weights: np.ndarray) -> np.ndarray:
        covariance = weights.T @ weights + NOISE**2 * np.eye(4)
        normals = (scipy.stats.multivariate_normal(np.zeros(k.sum()), covariance[k][:, k]) for k in observed)
        pairs = zip(normals, IMAGES.reshape(5, 4), observed, strict=True)
        return np.array([normal.logpdf(x[k]) for normal, x, k in pairs])

    assert (error < 0.05).all()
    np.testing.assert_allclose(bound, evidence(WEIGHTS), atol=4 * error.max())

    @jax.jit
    def gradient(params: Any, key: jax.Array) -> Any:
        return jax.grad(lambda params: apply_objective(model, IWAE(2000), params, batch, key, 0)["loss"].mean())(params)

    slopes = np.mean([gradient(params, key)["decoder"]["weights"] for key in jax.random.split(KEY, 10)], axis=0)
    for i, j in ((0, 0), (1, 2), (2, 3)):
        step = np.zeros_like(WEIGHTS)
        step[i, j] = 1e-4
        difference = (evidence(WEIGHTS + step) - evidence(WEIGHTS - step)).mean() / 2e-4
        np.testing.assert_allclose(-slopes[i, j], difference, atol=0.03)
