"""Distributions over 256 levels: against SciPy, their own sums over all levels, and their draws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from flax_vae.distributions.levels import LEVELS, BetaBinomial, Categorical, DiscretizedLogistic, MixtureOfLogistics
from flax_vae.distributions.pixels import ContinuousBernoulli

RNG = np.random.default_rng(0)
EVERY_LEVEL = np.arange(LEVELS, dtype=np.float32) / np.float32(255)
IMAGES = EVERY_LEVEL.reshape(LEVELS, 1, 1, 1)  # one image of one pixel for each level
log_prob = jax.jit(lambda p, x: p.log_prob(x))
upper_share = jax.jit(lambda p, low, middle, high: p.upper_share(low, middle, high))


def normals(*shape: int, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * RNG.normal(size=shape), jnp.float32)


def one_pixel(values: Any) -> jax.Array:
    """Return a parameter of one pixel with one channel, image "1 1 1"."""
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, *np.shape(values))


def mixture(logits: list, loc: list, log_scale: list) -> MixtureOfLogistics:
    """Return a mixture for one pixel with one channel."""
    coefficients = jnp.zeros((1, 1, 1, 1, len(loc)))
    return MixtureOfLogistics(jnp.array([[logits]], jnp.float32), one_pixel(loc), one_pixel(log_scale), coefficients)


PIXELS = {
    "logistic": DiscretizedLogistic(one_pixel(0.4), one_pixel(-2.0)),
    "narrow logistic": DiscretizedLogistic(one_pixel(0.4021), one_pixel(-9.0)),
    "wide logistic": DiscretizedLogistic(one_pixel(0.4), one_pixel(9.0)),
    "logistic beyond black": DiscretizedLogistic(one_pixel(-3.0), one_pixel(-2.0)),
    "mixture": mixture([0.3, -0.5, 1.0], [0.1, 0.5, 1.1], [-3.0, -2.0, -1.0]),
    "categorical": Categorical(one_pixel(RNG.normal(size=LEVELS))),
    "beta-binomial": BetaBinomial(one_pixel(0.4), one_pixel(1.2)),
    "beta-binomial at both ends": BetaBinomial(one_pixel(-2.0), one_pixel(-1.0)),
    "narrow beta-binomial": BetaBinomial(one_pixel(7.0), one_pixel(6.0)),
}
every_pixel = pytest.mark.parametrize("p", PIXELS.values(), ids=PIXELS.keys())


@every_pixel
def test_the_probabilities_of_all_levels_sum_to_one(p: Any) -> None:
    np.testing.assert_allclose(np.exp(np.float64(log_prob(p, IMAGES))).sum(), 1.0, rtol=1e-4)
    assert p.pixel_levels


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", ["logistic", "logistic beyond black", "mixture", "categorical", "beta-binomial"])
def test_draws_are_levels_with_the_probabilities_of_log_prob(name: str) -> None:
    """Compares the largest distance between distribution functions with Kolmogorov's bound at 1/1000."""
    p = PIXELS[name]
    draws = np.asarray(jax.jit(lambda p, key: p.sample(key, (20_000,)))(p, jax.random.key(0))).ravel() * 255
    np.testing.assert_allclose(draws, np.round(draws), atol=1e-3)
    counts = np.bincount(np.round(draws).astype(int), minlength=LEVELS)
    expected = np.exp(log_prob(p, IMAGES)).cumsum()
    assert np.abs(counts.cumsum() / 20_000 - expected).max() < 1.95 / np.sqrt(20_000)


@pytest.mark.parametrize("name", ["categorical", "beta-binomial", "narrow beta-binomial", "narrow logistic"])
def test_the_mean_is_the_expected_level(name: str) -> None:
    probabilities = np.exp(log_prob(PIXELS[name], IMAGES))
    np.testing.assert_allclose(PIXELS[name].mean().item(), EVERY_LEVEL @ probabilities, atol=1e-3)


def test_a_discretised_logistic_is_a_difference_of_distribution_functions() -> None:
    """Compares with SciPy in float64; the outer levels take the tails."""
    loc, log_scale = normals(2, 3, 1, scale=0.5), normals(2, 3, 1) - 2
    x = RNG.integers(0, LEVELS, (5, 2, 3, 1))
    x[0], x[1] = 0, 255
    cdf = scipy.stats.logistic(np.float64(loc), np.exp(np.float64(log_scale))).cdf
    upper, lower = np.where(x == 255, 1, cdf((x + 0.5) / 255)), np.where(x == 0, 0, cdf((x - 0.5) / 255))
    expected = np.log(upper - lower).sum((1, 2, 3))
    found = log_prob(DiscretizedLogistic(loc, log_scale), np.float32(x / 255))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def colour_mixture() -> MixtureOfLogistics:
    """Return a random mixture of two components for one pixel with three channels."""
    return MixtureOfLogistics(
        normals(1, 1, 2), normals(1, 1, 3, 2, scale=0.5), normals(1, 1, 3, 2) - 2, normals(1, 1, 3, 3, 2)
    )


def test_a_mixture_sums_its_components_after_multiplying_the_channels() -> None:
    """Computes each component by `DiscretizedLogistic` at its own locations."""
    p = colour_mixture()
    logits, loc, log_scale, coefficients = map(np.asarray, (p.logits, p.loc, p.log_scale, p.coefficients))
    x = RNG.integers(0, LEVELS, (1, 1, 3)) / np.float32(255)
    expected = 0.0
    for component in range(2):
        r, g, b = loc[0, 0, :, component]
        c = coefficients[0, 0, ..., component]
        locations = jnp.array([r, g + c[1, 0] * x[0, 0, 0], b + c[2, 0] * x[0, 0, 0] + c[2, 1] * x[0, 0, 1]])
        one = DiscretizedLogistic(locations, jnp.asarray(log_scale[0, 0, :, component]), event_ndim=1)
        expected += scipy.special.softmax(logits[0, 0])[component] * np.exp(log_prob(one, x[0, 0]))
    np.testing.assert_allclose(log_prob(p, x), np.log(expected), rtol=1e-5)


def test_the_channels_of_a_mixture_are_a_chain() -> None:
    """Summed over all levels of the last channel, it is the mixture over the previous channels."""
    p = colour_mixture()
    x = np.repeat(RNG.integers(0, LEVELS, (1, 1, 1, 3)) / np.float32(255), LEVELS, axis=0)
    x[:, 0, 0, 2] = EVERY_LEVEL
    two = MixtureOfLogistics(p.logits, p.loc[:, :, :2], p.log_scale[:, :, :2], p.coefficients[:, :, :2, :2])
    np.testing.assert_allclose(scipy.special.logsumexp(log_prob(p, x)), log_prob(two, x[0, ..., :2]), rtol=1e-5)


def test_draws_of_a_mixture_follow_the_chain() -> None:
    """With narrow components the second channel is its location plus a multiple of the first."""
    loc, coefficients = jnp.zeros((1, 1, 2, 1)).at[0, 0, 0].set(0.5).at[0, 0, 1].set(0.2), jnp.ones((1, 1, 2, 2, 1))
    p = MixtureOfLogistics(jnp.zeros((1, 1, 1)), loc, jnp.full(loc.shape, -6.0).at[0, 0, 0].set(-3.0), coefficients)
    x, mean = jax.jit(lambda: (p.sample(jax.random.key(0), (500,))[:, 0, 0], p.mean()[0, 0]))()
    x = np.asarray(x)
    assert x[:, 0].std() > 0.05
    np.testing.assert_allclose(x[:, 1], np.minimum(x[:, 0] + 0.2, 1), atol=0.04)
    np.testing.assert_allclose(mean, [0.5, 0.7], atol=1e-6)


HALVINGS = [(0, 128, 256), (0, 64, 128), (128, 192, 256), (64, 80, 96), (100, 101, 102), (0, 1, 2), (254, 255, 256)]


def summed_share(log_probs: np.ndarray, low: int, middle: int, high: int) -> float:
    """Return P(level >= middle | low <= level < high) by sums over the levels."""
    upper, total = (scipy.special.logsumexp(log_probs[begin:high]) for begin in (middle, low))
    return np.exp(upper - total)


@every_pixel
def test_the_upper_share_equals_the_sum_over_levels(p: Any) -> None:
    """In float64, as images are compressed; in float32 sums of tails would be rounding errors."""
    with jax.enable_x64(True):
        p = jax.tree.map(lambda leaf: jnp.asarray(np.float64(leaf)), p)
        log_probs = np.asarray(log_prob(p, IMAGES.astype(np.float64)))
        for halving in HALVINGS:
            share = upper_share(p, *(np.full((1, 1, 1), level) for level in halving))
            np.testing.assert_allclose(share.item(), summed_share(log_probs, *halving), rtol=1e-4)


@pytest.mark.parametrize("loc", [-3.0, 4.0])
def test_the_upper_share_is_precise_far_from_the_location_of_a_logistic(loc: float) -> None:
    """The probabilities themselves have long been rounded to zero."""
    p = DiscretizedLogistic(one_pixel(loc), one_pixel(-5.0))
    share = upper_share(p, *(np.full((1, 1, 1), level) for level in (64, 96, 128)))
    # Far from its location a logistic's density is an exponential.
    a, b, c = np.exp(np.sign(loc) * (np.array([64, 96, 128]) - 0.5) / 255 / np.exp(-5.0))
    expected = (c - b) / (c - a)
    np.testing.assert_allclose(share.item(), expected, rtol=1e-3)


def test_the_upper_share_of_a_channel_is_conditional_on_the_decoded_channels() -> None:
    """With red 30 and green 200, it equals the share of blue in sums of the joint probability of all three."""
    p = colour_mixture()
    x = np.repeat(np.array([[[[30, 200, 0]]]]), LEVELS, axis=0)
    x[:, 0, 0, 2] = np.arange(LEVELS)
    log_probs = np.float64(log_prob(p, np.float32(x / np.float32(255))))
    for low, middle, high in HALVINGS:
        bounds = ([30, 200, low], [30, 200, middle], [31, 201, high])
        share = upper_share(p, *(np.array([[bound]]) for bound in bounds))
        np.testing.assert_allclose(share.item(), summed_share(log_probs, low, middle, high), rtol=1e-4)


def test_a_categorical_is_the_softmax_of_its_logits() -> None:
    logits, x = normals(3, 2, 2, 1, LEVELS), RNG.integers(0, LEVELS, (3, 2, 2, 1))
    log_probs = scipy.special.log_softmax(logits, axis=-1)
    expected = np.take_along_axis(log_probs, x[..., None], -1)[..., 0].sum((1, 2, 3))
    np.testing.assert_allclose(log_prob(Categorical(logits), np.float32(x / 255)), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0])
def test_a_beta_binomial_equals_scipys(scale: float) -> None:
    log_alpha, log_beta = normals(4, 5, 1, scale=scale), normals(4, 5, 1, scale=scale)
    x = RNG.integers(0, LEVELS, (6, 4, 5, 1))
    bounded = (np.exp(np.clip(np.float64(log), -7, 7)) for log in (log_alpha, log_beta))
    expected = scipy.stats.betabinom(255, *bounded).logpmf(x).sum((1, 2, 3))
    found = log_prob(BetaBinomial(log_alpha, log_beta), np.float32(x / 255))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("make", "sizes"), [
    (ContinuousBernoulli, [()]), (DiscretizedLogistic, [(), ()]), (Categorical, [(LEVELS,)]), (BetaBinomial, [(), ()]),
])  # fmt: skip
def test_gradients_are_finite_at_any_output_of_a_network(make: Any, sizes: list) -> None:
    x = jnp.array([0.0, 1.0, 0.5, 0.2]).reshape(2, 2, 1)
    value_and_slopes = jax.jit(jax.value_and_grad(lambda parameters: make(*parameters).log_prob(x)))
    for size in (0.0, 1e-3, 1e4, -1e-3, -1e4):
        value, slopes = value_and_slopes([np.full((2, 2, 1, *shape), size, np.float32) for shape in sizes])
        assert np.isfinite(value)
        assert all(np.isfinite(slope).all() for slope in slopes)
