"""Likelihoods of 256 levels: against SciPy, their own sums over all levels, and their draws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from flax_vae.distributions.levels import (
    LEVELS,
    BetaBinomial,
    Categorical,
    DiscretizedLogistic,
    MixtureOfLogistics,
)
from flax_vae.distributions.pixels import ContinuousBernoulli

RNG = np.random.default_rng(0)
EVERY_LEVEL = jnp.arange(LEVELS, dtype=jnp.float32) / 255


def normals(*shape: int, scale: float = 1.0) -> jax.Array:
    return jnp.asarray(scale * RNG.normal(size=shape), jnp.float32)


def one_pixel(values: Any) -> jax.Array:
    """A parameter of one pixel of one channel, image "1 1 1"."""
    return jnp.asarray(values, jnp.float32).reshape(1, 1, 1, *np.shape(values))


def mixture(logits: list, loc: list, log_scale: list) -> MixtureOfLogistics:
    """Of one pixel of one channel."""
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
    log_probs = p.log_prob(EVERY_LEVEL.reshape(LEVELS, 1, 1, 1))
    np.testing.assert_allclose(np.exp(np.float64(log_probs)).sum(), 1.0, rtol=1e-4)
    assert p.pixel_levels


@pytest.mark.parametrize("name", ["logistic", "logistic beyond black", "mixture", "categorical", "beta-binomial"])
def test_draws_are_levels_with_the_probabilities_that_log_prob_states(name: str) -> None:
    """The largest distance between the distribution functions, against Kolmogorov's bound at one in a thousand."""
    p = PIXELS[name]
    draws = np.asarray(jax.jit(p.sample, static_argnums=1)(jax.random.key(0), (20_000,))).ravel() * 255
    np.testing.assert_allclose(draws, np.round(draws), atol=1e-3)
    counts = np.bincount(np.round(draws).astype(int), minlength=LEVELS)
    expected = np.exp(p.log_prob(EVERY_LEVEL.reshape(LEVELS, 1, 1, 1))).cumsum()
    assert np.abs(counts.cumsum() / 20_000 - expected).max() < 1.95 / np.sqrt(20_000)


@pytest.mark.parametrize("name", ["categorical", "beta-binomial", "narrow beta-binomial", "narrow logistic"])
def test_the_mean_is_that_of_the_levels(name: str) -> None:
    probabilities = np.exp(PIXELS[name].log_prob(EVERY_LEVEL.reshape(LEVELS, 1, 1, 1)))
    np.testing.assert_allclose(PIXELS[name].mean().item(), EVERY_LEVEL @ probabilities, atol=1e-3)


def test_a_discretised_logistic_is_a_difference_of_distribution_functions() -> None:
    """SciPy's in float64; the outer levels take everything beyond them."""
    loc, log_scale = normals(2, 3, 1, scale=0.5), normals(2, 3, 1) - 2
    x = RNG.integers(0, LEVELS, (5, 2, 3, 1))
    x[0], x[1] = 0, 255
    cdf = scipy.stats.logistic(np.float64(loc), np.exp(np.float64(log_scale))).cdf
    upper, lower = np.where(x == 255, 1, cdf((x + 0.5) / 255)), np.where(x == 0, 0, cdf((x - 0.5) / 255))
    expected = np.log(upper - lower).sum((1, 2, 3))
    found = DiscretizedLogistic(loc, log_scale).log_prob(jnp.asarray(x / 255, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_mixture_adds_its_components_after_all_channels() -> None:
    """A pixel of three channels, each component by `DiscretizedLogistic` at its own locations."""
    logits, loc, log_scale = normals(1, 1, 2), normals(1, 1, 3, 2, scale=0.5), normals(1, 1, 3, 2) - 2
    coefficients = normals(1, 1, 3, 3, 2)
    x = RNG.integers(0, LEVELS, (1, 1, 3)) / np.float32(255)
    expected = 0.0
    for component in range(2):
        r, g, b = loc[0, 0, :, component]
        c = coefficients[0, 0, ..., component]
        locations = jnp.array([r, g + c[1, 0] * x[0, 0, 0], b + c[2, 0] * x[0, 0, 0] + c[2, 1] * x[0, 0, 1]])
        one = DiscretizedLogistic(locations, log_scale[0, 0, :, component], event_ndim=1)
        expected += scipy.special.softmax(logits[0, 0])[component] * np.exp(one.log_prob(jnp.asarray(x[0, 0])))
    found = MixtureOfLogistics(logits, loc, log_scale, coefficients).log_prob(jnp.asarray(x))
    np.testing.assert_allclose(found, np.log(expected), rtol=1e-5)


def test_a_mixtures_channels_are_a_chain() -> None:
    """Summed over all levels of the last channel, it is the mixture of the channels before."""
    logits, loc, log_scale = normals(1, 1, 2), normals(1, 1, 3, 2, scale=0.5), normals(1, 1, 3, 2) - 2
    coefficients = normals(1, 1, 3, 3, 2)
    x = np.repeat(RNG.integers(0, LEVELS, (1, 1, 1, 3)) / np.float32(255), LEVELS, axis=0)
    x[:, 0, 0, 2] = EVERY_LEVEL
    whole = MixtureOfLogistics(logits, loc, log_scale, coefficients).log_prob(jnp.asarray(x))
    two = MixtureOfLogistics(logits, loc[:, :, :2], log_scale[:, :, :2], coefficients[:, :, :2, :2])
    np.testing.assert_allclose(scipy.special.logsumexp(whole), two.log_prob(jnp.asarray(x[0, ..., :2])), rtol=1e-5)


def test_a_mixtures_draws_follow_the_chain() -> None:
    """With narrow components the second channel is its location plus a multiple of the first."""
    loc, coefficients = jnp.zeros((1, 1, 2, 1)).at[0, 0, 0].set(0.5).at[0, 0, 1].set(0.2), jnp.ones((1, 1, 2, 2, 1))
    p = MixtureOfLogistics(jnp.zeros((1, 1, 1)), loc, jnp.full(loc.shape, -6.0).at[0, 0, 0].set(-3.0), coefficients)
    x = np.asarray(p.sample(jax.random.key(0), (500,)))[:, 0, 0]
    assert x[:, 0].std() > 0.05
    np.testing.assert_allclose(x[:, 1], np.minimum(x[:, 0] + 0.2, 1), atol=0.04)
    np.testing.assert_allclose(p.mean()[0, 0], [0.5, 0.7], atol=1e-6)


HALVINGS = [(0, 128, 256), (0, 64, 128), (128, 192, 256), (64, 80, 96), (100, 101, 102), (0, 1, 2), (254, 255, 256)]


def upper_share(log_probs: np.ndarray, low: int, middle: int, high: int) -> float:
    """By sums over the levels."""
    upper, whole = (scipy.special.logsumexp(log_probs[begin:high]) for begin in (middle, low))
    return np.exp(upper - whole)


@every_pixel
def test_the_upper_share_of_levels_is_that_of_their_sums(p: Any) -> None:
    with jax.enable_x64(True):  # in which images are compressed; in float32 sums of tails are rounding
        p = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), p)
        log_probs = np.asarray(p.log_prob(EVERY_LEVEL.astype(np.float64).reshape(LEVELS, 1, 1, 1)))
        for halving in HALVINGS:
            found = p.upper_share(*(jnp.full((1, 1, 1), level) for level in halving))
            np.testing.assert_allclose(found.item(), upper_share(log_probs, *halving), rtol=1e-4)


@pytest.mark.parametrize("loc", [-3.0, 4.0])
def test_levels_far_from_a_logistic_keep_the_ratio_of_their_probabilities(loc: float) -> None:
    """Halvings divide probabilities that have long been rounded to zero."""
    p = DiscretizedLogistic(one_pixel(loc), one_pixel(-5.0))
    found = p.upper_share(*(jnp.full((1, 1, 1), level) for level in (64, 96, 128)))
    # Far above or below a logistic's location its density is an exponential.
    a, b, c = np.exp(np.sign(loc) * (np.array([64, 96, 128]) - 0.5) / 255 / np.exp(-5.0))
    expected = (c - b) / (c - a)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-3)


def test_channels_between_levels_are_those_given_the_channels_before() -> None:
    """The share of the last channel's levels, where red is 30 and green 200, of the sums of what all three have."""
    logits, loc, log_scale = normals(1, 1, 2), normals(1, 1, 3, 2, scale=0.5), normals(1, 1, 3, 2) - 2
    p = MixtureOfLogistics(logits, loc, log_scale, normals(1, 1, 3, 3, 2))
    x = np.repeat(np.array([[[[30, 200, 0]]]]), LEVELS, axis=0)
    x[:, 0, 0, 2] = np.arange(LEVELS)
    log_probs = np.float64(p.log_prob(jnp.asarray(x / np.float32(255), jnp.float32)))
    for low, middle, high in HALVINGS:
        found = p.upper_share(
            *(jnp.array([[[*rg, b]]]) for rg, b in (([30, 200], low), ([30, 200], middle), ([31, 201], high)))
        )
        np.testing.assert_allclose(found.item(), upper_share(log_probs, low, middle, high), rtol=1e-4)


def test_a_categorical_is_its_softmax() -> None:
    logits, x = normals(3, 2, 2, 1, LEVELS), RNG.integers(0, LEVELS, (3, 2, 2, 1))
    every = scipy.special.log_softmax(logits, axis=-1)
    expected = np.take_along_axis(every, x[..., None], -1)[..., 0].sum((1, 2, 3))
    np.testing.assert_allclose(Categorical(logits).log_prob(jnp.asarray(x / 255, jnp.float32)), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0, 10.0])
def test_a_beta_binomial_is_scipys(scale: float) -> None:
    log_alpha, log_beta = normals(4, 5, 1, scale=scale), normals(4, 5, 1, scale=scale)
    x = RNG.integers(0, LEVELS, (6, 4, 5, 1))
    bounded = (np.exp(np.clip(np.float64(log), -7, 7)) for log in (log_alpha, log_beta))
    expected = scipy.stats.betabinom(255, *bounded).logpmf(x).sum((1, 2, 3))
    found = BetaBinomial(log_alpha, log_beta).log_prob(jnp.asarray(x / 255, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1e4])
@pytest.mark.parametrize(("make", "sizes"), [
    (ContinuousBernoulli, [()]), (DiscretizedLogistic, [(), ()]), (Categorical, [(LEVELS,)]), (BetaBinomial, [(), ()]),
])  # fmt: skip
def test_no_output_of_a_network_makes_a_gradient_infinite(make: Any, sizes: list, size: float) -> None:
    x = jnp.array([0.0, 1.0, 0.5, 0.2]).reshape(2, 2, 1)
    for sign in (-1, 1):
        parameters = [sign * jnp.full((2, 2, 1, *shape), size) for shape in sizes]
        value, slopes = jax.value_and_grad(lambda parameters: make(*parameters).log_prob(x))(parameters)
        assert np.isfinite(value)
        assert all(np.isfinite(slope).all() for slope in slopes)
