"""Densities, sampling and evaluation of many rows at once, compiled in a separate program as for users.

Other tests have small inputs, and miss some errors of compilers: jaxlib 0.9 and 0.10, which the package excludes,
compute wrong sums for 40,000 rows of 3, but not for 10,000 rows or for rows of 8 (jax issue 39103). The program is this
file. It prints the numbers that differ from float64 NumPy and SciPy.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import betaln, expit, gammaln, log_softmax, logsumexp
from scipy.stats import nbinom, poisson

from flax_vae import (
    ELBO,
    decode,
    encode,
    init,
    interpolate,
    kl_divergence,
    latent_grid,
    log_likelihood,
    reconstruct,
    sample,
    traverse,
    tutorial_dense,
)
from flax_vae.batches import to_float
from flax_vae.distributions import (
    Bernoulli,
    BetaBinomial,
    Categorical,
    Chain,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Mixture,
    MixtureOfLogistics,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
)
from flax_vae.metrics.latents import elbo_surgery, posterior_means
from flax_vae.metrics.objective_means import make_evaluate
from flax_vae.metrics.per_example import per_example_statistics
from flax_vae.models import CouplingFlow

ROWS, LATENTS = (1, 1000, 32_769, 40_000), (2, 3, 8, 40)
IMAGE_SHAPE, DRAWS, SURGERY_ROWS = (4, 4, 1), 8, 1000  # elbo_surgery compares every two rows
CATEGORICAL_NUMBERS = 120_000  # of 256 logits each
LOG_2PI = np.log(2 * np.pi)
Case = tuple[str, Any, Any]  # name, computed numbers, correct numbers


def normal_log_prob(x: np.ndarray, loc: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    return (-0.5 * (((x - loc) / np.exp(log_scale)) ** 2 + LOG_2PI) - log_scale).sum(-1)


def kl_of_normals(loc: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
    """Return KL(q || N(0, 1)) of each dimension."""
    return 0.5 * (np.exp(2 * log_scale) + loc**2 - 1) - log_scale


def reported(rows: int, latents: int) -> Iterator[Case]:
    """Yield the program of jax issue 39103, and another that jaxlib 0.10.1 computes wrongly."""
    rng = np.random.default_rng(0)
    matrix, x = (rng.normal(size=shape).astype(np.float32) for shape in ((latents, latents), (rows, latents)))
    squares = jax.jit(jax.vmap(lambda matrix, row: jnp.sum((matrix @ row) ** 2), in_axes=(None, 0)))
    products = np.float64(x) @ np.float64(matrix).T
    yield "issue 39103", squares(matrix, x), (products**2).sum(-1)
    sums = jax.jit(jax.vmap(lambda matrix, row: jnp.sum(matrix @ row) - jnp.sum(row**2), in_axes=(None, 0)))
    yield "two sums", sums(matrix, x), products.sum(-1) - (np.float64(x) ** 2).sum(-1)


def densities(rows: int, latents: int) -> Iterator[Case]:
    """Yield densities and divergences of vectors."""
    rng = np.random.default_rng(rows + latents)
    shape = (rows, latents)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32).astype(np.float64)

    def both(function: Callable[..., Any], *arrays: np.ndarray) -> jax.Array:
        return jax.jit(function)(*(array.astype(np.float32) for array in arrays))

    x, loc, log_scale = normal(*shape), normal(*shape), normal(*shape) / 2
    log_prob = normal_log_prob(x, loc, log_scale)
    yield "Normal", both(lambda x, *p: Normal(*p).log_prob(x), x, loc, log_scale), log_prob
    shared = both(lambda x, *p: Normal(*p).log_prob(x), x, loc[0], log_scale[0])
    yield "Normal, one for all", shared, normal_log_prob(x, loc[0], log_scale[0])
    other = normal(*shape), normal(*shape) / 2
    ratio = log_scale - other[1]
    kl = 0.5 * (np.exp(2 * ratio) + ((loc - other[0]) / np.exp(other[1])) ** 2 - 1) - ratio
    rates = both(lambda *p: kl_divergence(Normal(*p[:2]), Normal(*p[2:])), loc, log_scale, *other)
    yield "KL of normals", rates, kl.sum(-1)

    for name, count in ("one for all", 1), ("one each", rows):
        if count == rows and latents > 8:
            continue  # 40,000 matrices of 40 x 40 in float64
        lower = np.tril(normal(count, latents, latents) / latents, -1) + np.eye(latents) * np.exp(normal(latents) / 4)
        log_det = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(-1)
        standardised = np.linalg.solve(lower, (x - loc)[..., None])[..., 0]
        want = -0.5 * (standardised**2 + LOG_2PI).sum(-1) - log_det
        L = lower if count == rows else lower[0]
        got = both(lambda x, *p: MultivariateNormal(*p).log_prob(x), x, loc, L)
        yield f"MultivariateNormal, {name}", got, want
        kl = kl_of_normals(loc, 0).sum(-1) + 0.5 * ((lower**2).sum((-2, -1)) - latents) - log_det
        got = both(lambda *p: kl_divergence(MultivariateNormal(*p), Normal(p[0] * 0, p[0] * 0)), loc, L)
        yield f"KL of MultivariateNormal, {name}", got, kl

    logits, locs, log_scales = normal(5), normal(5, latents), normal(5, latents) / 2
    of_components = np.stack([normal_log_prob(x, *p) for p in zip(locs, log_scales, strict=True)], -1)
    got = both(lambda x, weights, *p: Mixture(weights, Normal(*p)).log_prob(x), x, logits, locs, log_scales)
    yield "Mixture", got, logsumexp(of_components + log_softmax(logits), axis=-1)

    matrix = normal(latents, 1)

    def chain(x: jax.Array, loc: jax.Array, log_scale: jax.Array, matrix: jax.Array) -> jax.Array:
        def below(above: jax.Array) -> Normal:
            mean = jnp.tanh(above @ matrix[:-1])
            return Normal(mean, jnp.zeros_like(mean))

        return Chain(Normal(loc[..., :-1], log_scale[..., :-1]), (below,), (latents - 1, 1)).log_prob(x)

    top = normal_log_prob(x[:, :-1], loc[:, :-1], log_scale[:, :-1])
    want = top + normal_log_prob(x[:, -1:], np.tanh(x[:, :-1] @ matrix[:-1]), np.zeros(1))
    yield "Chain", both(chain, x, loc, log_scale, matrix), want

    if latents == 3:  # compiles for seconds; compared with a program for a thousand rows
        flow = CouplingFlow(latents, hidden=16)
        params = jax.eval_shape(lambda: flow.init(jax.random.key(0)))
        params = jax.tree.map(lambda leaf: rng.normal(0, 0.25, leaf.shape).astype(np.float32), params)
        density = jax.jit(lambda x: flow.apply(params).log_prob(x))
        some = np.resize(x.astype(np.float32), (-(-rows // 1000), 1000, latents))
        yield "Flow", density(x.astype(np.float32)), np.concatenate([density(part) for part in some])[:rows]


def likelihoods(rows: int, latents: int) -> Iterator[Case]:
    """Yield densities of images with one row of `latents` pixels."""
    rng = np.random.default_rng(rows + latents)
    shape = (rows, 1, latents, 1)
    event = (1, 2, 3)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32).astype(np.float64)

    def log_prob(distribution: Callable[..., Any], *parameters: np.ndarray) -> jax.Array:
        arrays = (array.astype(np.float32) for array in (x, *parameters))
        return jax.jit(lambda x, *p: distribution(*p).log_prob(x))(*arrays)

    level = rng.integers(0, 256, shape)
    x = level / 255
    a, b = normal(*shape), normal(*shape)
    cross_entropy = x * a - np.logaddexp(0, a)
    yield "Bernoulli", log_prob(Bernoulli, a), cross_entropy.sum(event)
    constant = np.log(a / np.tanh(a / 2))
    yield "ContinuousBernoulli", log_prob(ContinuousBernoulli, a), (cross_entropy + constant).sum(event)
    got = log_prob(partial(Normal, event_ndim=3), a, b / 2)
    yield "Normal pixels", got, normal_log_prob(*(each.reshape(rows, -1) for each in (x, a, b / 2)))

    def of_level(x: np.ndarray, loc: np.ndarray, log_scale: np.ndarray) -> np.ndarray:
        upper, lower = (expit((x + side / 510 - loc) / np.exp(log_scale)) for side in (1, -1))
        return np.log(np.where(x == 1, 1, upper) - np.where(x == 0, 0, lower))

    loc, log_scale = 0.5 + a / 4, b / 4 - 1
    yield "DiscretizedLogistic", log_prob(DiscretizedLogistic, loc, log_scale), of_level(x, loc, log_scale).sum(event)
    choose = gammaln(256) - gammaln(level + 1) - gammaln(256 - level)
    beta = betaln(level + np.exp(a), 255 - level + np.exp(b)) - betaln(np.exp(a), np.exp(b))
    yield "BetaBinomial", log_prob(BetaBinomial, a, b), (choose + beta).sum(event)
    counts = jax.jit(lambda x, log_rate: Poisson(log_rate, event_ndim=3).log_prob(x))
    yield "Poisson", counts(level.astype(np.float32), a.astype(np.float32)), poisson.logpmf(level, np.exp(a)).sum(event)
    counts = jax.jit(lambda x, *logs: NegativeBinomial(*logs, event_ndim=3).log_prob(x))
    theta, mean = np.exp(b), np.exp(a)
    got = counts(level.astype(np.float32), a.astype(np.float32), b.astype(np.float32))
    yield "NegativeBinomial", got, nbinom.logpmf(level, theta, theta / (theta + mean)).sum(event)
    if rows * latents <= CATEGORICAL_NUMBERS:
        logits = normal(*shape, 256)
        want = np.take_along_axis(log_softmax(logits, -1), level[..., None], -1)
        yield "Categorical", log_prob(Categorical, logits), want.sum((1, 2, 3, 4))

    level = rng.integers(0, 256, (rows, 1, latents, 2))
    x = level / 255
    logits, of_first = normal(rows, 1, latents, 2), normal(rows, 1, latents, 2, 2, 2)
    locs, log_scales = 0.5 + normal(rows, 1, latents, 2, 2) / 4, normal(rows, 1, latents, 2, 2) / 4 - 1
    moved = locs.copy()
    moved[..., 1, :] += of_first[..., 1, 0, :] * x[..., :1]
    of_channels = of_level(x[..., None], moved, log_scales).sum(-2)
    want = logsumexp(of_channels + log_softmax(logits, -1), axis=-1).sum((1, 2))
    yield "MixtureOfLogistics", log_prob(MixtureOfLogistics, logits, locs, log_scales, of_first), want


def model_functions(rows: int, latents: int) -> Iterator[Case]:
    """Yield sampling and evaluation of `tutorial_dense`, against networks written in NumPy."""
    model = tutorial_dense(IMAGE_SHAPE, latents)
    rng = np.random.default_rng(rows + latents)
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0), IMAGE_SHAPE))
    params = jax.tree.map(lambda leaf: rng.normal(0, leaf.shape[0] ** -0.5, leaf.shape).astype(np.float32), shapes)
    weights = jax.tree.map(np.float64, params)
    images = rng.integers(0, 256, (rows, *IMAGE_SHAPE)).astype(np.uint8)
    x, key = np.float64(to_float(images)), jax.random.key(rows)

    def layer(of: dict[str, Any], x: np.ndarray) -> np.ndarray:
        return x @ of["kernel"] + of["bias"]

    def logits_of(z: np.ndarray) -> np.ndarray:
        first, last = weights["decoder"]["ReluDense_0"]["Dense_0"], weights["decoder"]["Dense_0"]
        return layer(last, np.maximum(layer(first, z), 0))

    def pixels(z: np.ndarray) -> np.ndarray:
        return expit(logits_of(z)).reshape(*z.shape[:-1], *IMAGE_SHAPE)

    def cross_entropy(z: np.ndarray, x: np.ndarray) -> np.ndarray:
        logits = logits_of(z)
        return (x.reshape(-1, logits.shape[-1]) * logits - np.logaddexp(0, logits)).sum(-1)

    def noise(keys: jax.Array, *shape: int) -> np.ndarray:
        return np.float64(jax.jit(jax.vmap(lambda key: jax.random.normal(key, shape)))(keys))

    features = np.maximum(layer(weights["encoder"]["ReluDense_0"]["Dense_0"], x.reshape(rows, -1)), 0)
    mean, log_scale = (layer(weights["posterior"][name], features) for name in ("mean", "log_var"))
    log_scale = log_scale / 2
    keys = jax.random.split(key, rows)
    of_each = noise(keys, latents)

    posterior = encode(model, params, images)
    yield "encode, loc", posterior.loc, mean
    yield "encode, log_scale", posterior.log_scale, log_scale
    yield "posterior_means", posterior_means(model, params, images), mean
    yield "posterior_means at once", posterior_means(model, params, images, rows), mean
    yield "sample", sample(model, params, key, rows), pixels(of_each)
    yield "decode", decode(model, params, of_each.astype(np.float32)), pixels(of_each)
    drawn = mean + np.exp(log_scale) * of_each
    yield "reconstruct", reconstruct(model, params, images, key), pixels(drawn)
    if latents != 3:
        return  # the rest compiles for seconds
    ends = images[0], images[-1]
    t = np.linspace(0, 1, rows)[:, None]
    yield "interpolate", interpolate(model, params, *ends, rows), pixels((1 - t) * mean[0] + t * mean[-1])
    z = np.zeros((1, rows, latents))
    z[..., 1] = np.linspace(-2, 2, rows)
    yield "latent_grid", latent_grid(model, params, rows, 2.0, (1,)), pixels(z)
    if rows == max(ROWS):
        z = np.zeros((200, 200, latents))
        z[..., 0], z[..., 1] = np.meshgrid(*[np.linspace(-2, 2, 200)] * 2)
        yield "latent_grid of a plane", latent_grid(model, params, 200), pixels(z)
    steps = -(-rows // latents)
    z = np.where(np.eye(latents, dtype=bool)[:, None], np.linspace(-3, 3, steps)[:, None], mean[0])
    yield "traverse", traverse(model, params, images[0], steps), pixels(z)

    rates = kl_of_normals(mean, log_scale)

    of_batch = np.float64(jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, 0), 0), (1, rows, latents)))[0]
    distortion = -cross_entropy(mean + np.exp(log_scale) * of_batch, x)
    figures = make_evaluate(model, ELBO(), rows)(params, images, key, 0)
    yield "make_evaluate", [figures["rate"], figures["distortion"]], [rates.sum(-1).mean(), distortion.mean()]
    seen = per_example_statistics(model, params, images, key, rows)
    yield "per_example_statistics, rates", seen["dimension_rates"], rates
    yield "per_example_statistics, distortion", seen["distortion"], distortion
    error = np.square(pixels(mean + np.exp(log_scale) * of_batch) - x).reshape(rows, -1).mean(-1)
    yield "per_example_statistics, squared error", seen["squared_error"], error

    of_draws = noise(jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys), DRAWS, 1, latents)
    draws = mean[:, None] + np.exp(log_scale)[:, None] * of_draws.reshape(rows, DRAWS, latents)
    log_w = normal_log_prob(draws, 0, np.zeros(latents)) - normal_log_prob(draws, mean[:, None], log_scale[:, None])
    log_w += cross_entropy(draws.reshape(-1, latents), np.repeat(x, DRAWS, 0)).reshape(rows, DRAWS)
    w = np.exp(log_w - log_w.max(-1, keepdims=True))
    bound, error, _ = log_likelihood(model, params, images, key, DRAWS)
    yield "log_likelihood", bound, logsumexp(log_w, axis=-1) - np.log(DRAWS)
    yield "its error", error, w.std(-1, ddof=1) / w.mean(-1) / DRAWS**0.5

    if rows <= SURGERY_ROWS:
        z = mean + np.exp(log_scale) * np.float64(jax.random.normal(key, (rows, latents)))
        log_q = normal_log_prob(z[:, None], mean, log_scale)
        log_p = normal_log_prob(z, 0, np.zeros(latents))
        marginal = (logsumexp(log_q, axis=-1) - np.log(rows) - log_p).mean()
        parts = elbo_surgery(model, params, images, key)
        got = [parts["mutual_information"], parts["marginal_kl"]]
        yield "elbo_surgery", got, [(np.diagonal(log_q) - log_p).mean() - marginal, marginal]


PARTS = {part.__name__: part for part in (reported, densities, likelihoods, model_functions)}


def sizes(part: str) -> list[tuple[int, int]]:
    """Return pairs of rows and latents: all of them, or for slow compilations those with 3 latents or most rows."""
    if part == "model_functions":
        return [(1, 3), *((max(ROWS), d) for d in (2, 3, 40))]
    return [(n, d) for n, d in product(ROWS, LATENTS) if part == "reported" or d == 3 or n == max(ROWS)]


def failures(part: str) -> Iterator[str]:
    for rows, latents in sizes(part):
        for name, got, want in PARTS[part](rows, latents):
            got, want = np.float64(got), np.float64(want)
            assert got.shape == want.shape, (name, got.shape, want.shape)
            # Rounding errors of float32 are at most a few 1e-6 of the largest numbers; wrong sums differ by more.
            wrong = ~(np.abs(got - want) <= 1e-4 * (1 + np.abs(want)))
            if wrong.any():
                yield f"{name}, {rows} x {latents}: {wrong.sum()} of {wrong.size} wrong, by {np.abs(got - want).max()}"


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_numbers_of_a_program(part: str, clean_environment: dict[str, str]) -> None:
    words = [sys.executable, "-W", "error", __file__, part]
    done = subprocess.run(words, capture_output=True, text=True, env=clean_environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


if __name__ == "__main__":
    wrong = list(failures(sys.argv[1]))
    sys.exit("\n".join(wrong) or None)
