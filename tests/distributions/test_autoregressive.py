"""Images whose pixels depend on one another: against enumeration and against a loop over the pixels."""

import itertools
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from flax_vae.distributions import Autoregressive
from flax_vae.models import LIKELIHOODS

RNG = np.random.default_rng(0)


def normals(*shape: int, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * RNG.normal(size=shape), jnp.float32)


def random_images(part: str, *shape: int) -> Autoregressive:
    """Return p(x | z) "*b" over images "h w c", from random outputs and a random network."""
    likelihood: Any = LIKELIHOODS.make(part)
    output = normals(*shape[:-1], len(likelihood.start((0.5,) * shape[-1])))
    start = jax.eval_shape(likelihood.init, jax.random.key(0), output)
    return likelihood.apply(jax.tree.map(lambda leaf: normals(*leaf.shape, scale=0.7), start), output)


def probabilities_of_all(p: Autoregressive, levels: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the probability of every image, in the order of `itertools.product`."""
    values = np.linspace(0, 1, levels, dtype=np.float32)
    images = np.array(list(itertools.product(values, repeat=prod(shape))))
    return np.exp(np.float64(jax.jit(lambda x: p.log_prob(x))(images.reshape(-1, *shape))))


@pytest.mark.quick(1)
@pytest.mark.parametrize(("reach", "shape"), [(1, (3, 3, 1)), (2, (3, 3, 1)), (5, (3, 3, 1)), (1, (2, 2, 2))])
def test_draws_have_the_probabilities_of_log_prob(reach: int, shape: tuple[int, int, int]) -> None:
    """Enumerates all binary images; the window is smaller than, as large as and much larger than they are."""
    p, count, size = random_images(f"autoregressive(reach={reach}, features=2, hidden=4)", *shape), 50_000, prod(shape)
    probabilities = probabilities_of_all(p, 2, shape)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-5)
    draws = np.asarray(jax.jit(lambda key: p.sample(key, (count,)))(jax.random.key(0))).reshape(count, size)
    counts = np.bincount((draws @ 2 ** np.arange(size)[::-1]).astype(int), minlength=2**size)
    frequent = probabilities * count > 10
    assert frequent.sum() > 50
    deviations = (counts - probabilities * count)[frequent] / np.sqrt(probabilities * count)[frequent]
    assert np.abs(deviations).max() < 4.5
    assert np.mean(deviations**2) < 1 + 4 * np.sqrt(2 / frequent.sum())


@pytest.mark.quick(1)
@pytest.mark.parametrize("head", ["discretized_logistic", "logistic_mixture", "categorical", "beta_binomial"])
def test_the_probabilities_of_all_pairs_of_levels_sum_to_one(head: str) -> None:
    p = random_images(f"autoregressive(head={head!r}, reach=1, features=2, hidden=4)", 1, 2, 1)
    assert p.pixel_levels == 256
    np.testing.assert_allclose(probabilities_of_all(p, 256, (1, 2, 1)).sum(), 1, rtol=1e-4)


def test_log_prob_equals_a_loop_over_the_pixels() -> None:
    """The loop is in float64: three draws "k" of two images "b" of 28x28 pixels."""
    p, reach = random_images("autoregressive", 3, 2, 28, 28, 1), 5
    x = RNG.integers(0, 2, (2, 28, 28, 1)).astype(np.float32)
    features, net = jax.tree.map(np.float64, (p.features, p.network))
    expected = np.zeros((3, 2))
    for k, b, row, column in np.ndindex(3, 2, 28, 28):
        rows = [(row - up, column + aside) for up in range(reach, 0, -1) for aside in range(-reach, reach + 1)]
        pixels = [*rows, *((row, column - aside) for aside in range(reach, 0, -1))]
        window = [x[b, i, j, 0] if i >= 0 and 0 <= j < 28 else 0.0 for i, j in pixels]
        h = np.array(window) @ net.window + features[k, b, row, column] @ net.features
        h = h / (1 + np.exp(-h)) @ net.hidden
        logit = (h / (1 + np.exp(-h)) @ net.output + net.bias)[0]
        expected[k, b] -= np.logaddexp(0, logit * (1 - 2 * x[b, row, column, 0]))
    np.testing.assert_allclose(jax.jit(p.log_prob)(x), expected, rtol=2e-6)


def test_the_mean_of_each_pixel_is_conditional_on_the_previous_means() -> None:
    """Compares the last pixel of each row with its log-odds in an image that ends with that row."""
    p = random_images("autoregressive(reach=2, features=2, hidden=4)", 3, 3, 1)
    mean_of = jax.jit(lambda p: p.mean())
    log_odds_of = jax.jit(lambda p, one, zero: p.log_prob(one) - p.log_prob(zero))
    expected = mean_of(p)
    for rows in (1, 2, 3):
        upper = p.replace(features=p.features[:rows])
        mean = np.asarray(mean_of(upper))
        np.testing.assert_array_equal(mean, expected[:rows])
        one, zero = mean.copy(), mean.copy()
        one[-1, -1], zero[-1, -1] = 1, 0
        np.testing.assert_allclose(scipy.special.expit(log_odds_of(upper, one, zero)), mean[-1, -1, 0], rtol=1e-4)
