"""Properties for all parameters, images and orders of images, by Hypothesis."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hypothesis import assume, given, settings
from hypothesis.extra.numpy import arrays
from known_models import IMAGES, NOISE, WEIGHTS, Flatten, LinearDecoder, linear_gaussian, log_evidence

from flax_vae import (
    DIPVAE,
    ELBO,
    IWAE,
    VAE,
    BetaTCVAE,
    DReG,
    FreeBits,
    InfoVAE,
    Normal,
    Renyi,
    StandardNormal,
    init,
    kl_divergence,
    log_likelihood,
)
from flax_vae.distributions.levels import LEVELS
from flax_vae.distributions.normal import MultivariateNormal
from flax_vae.models import LIKELIHOODS
from flax_vae.objectives.base import apply_objective

KEY = jax.random.key(0)
PARAMS = init(linear_gaussian(), KEY, (2, 2, 1))
examples = partial(settings, deadline=None, derandomize=True, database=None)


def floats(limit: float, *shape: int) -> st.SearchStrategy:
    return arrays(np.float32, shape, elements=st.floats(-limit, limit, width=32))


KL = jax.jit(kl_divergence)


@examples(max_examples=100)
@given(floats(1e4, 2, 2), floats(15, 2, 2), floats(1e3, 1, 2, 2))
def test_a_divergence_is_nonnegative_and_zero_only_for_equals(
    loc: np.ndarray, log_scale: np.ndarray, rows: np.ndarray
) -> None:
    """Compute divergences of normals with and without correlations from a diagonal normal."""
    q, p = (Normal(jnp.asarray(loc[i : i + 1]), jnp.asarray(log_scale[i : i + 1])) for i in range(2))
    assert KL(q, q) == 0
    rounding = 1e-6 * (1 + np.abs(log_scale).sum())
    unit = np.tril(rows, -1) + np.eye(2, dtype=np.float32)
    correlated = MultivariateNormal(q.loc, jnp.exp(q.log_scale)[..., None] * unit)
    found, with_correlations = KL(q, p).item(), KL(correlated, p).item()
    assert found >= -rounding
    assert with_correlations >= -rounding
    apart = np.maximum(np.abs(q.loc - p.loc) * np.exp(-p.log_scale), np.abs(q.log_scale - p.log_scale))
    assert found > 0 or apart.max() < 1e-3
    assert with_correlations > 0 or max(apart.max(), np.abs(unit[0, 1, 0])) < 1e-2


DRAWS = 1_000


def losses(objective: Callable) -> Callable:
    """Return a function of parameters and key: losses of independent draws for `IMAGES`."""

    def loss(params: dict, key: jax.Array) -> jax.Array:
        return apply_objective(linear_gaussian(), objective, params, jnp.asarray(IMAGES), key, 0)["loss"]

    return jax.jit(lambda params, key: jax.vmap(partial(loss, params))(jax.random.split(key, DRAWS)))


BOUNDS = [losses(objective) for objective in (ELBO(), IWAE(2), IWAE(8))]


@examples(max_examples=8)
@given(floats(1.0, 3), floats(0.75, 3))
def test_the_bound_rises_from_the_elbo_to_the_evidence(shift: np.ndarray, wider: np.ndarray) -> None:
    """Compare means over independent draws within four standard errors of their difference.

    The posterior is the exact one with its mean and log-scale moved. The ELBO is the evidence minus KL(q || p(z | x)),
    which has a closed form.
    """
    exact = 1 + (WEIGHTS**2).sum(1) / NOISE**2  # precisions
    log_scale = PARAMS["posterior"]["log_scale"] + wider
    params = PARAMS | {"posterior": {"shift": shift, "log_scale": log_scale}}
    found = [-np.float64(bound(params, key)) for bound, key in zip(BOUNDS, jax.random.split(KEY, 3), strict=True)]
    means = np.stack([*(each.mean(0) for each in found), log_evidence()])
    errors = np.stack([*(each.std(0) / np.sqrt(DRAWS) for each in found), np.zeros(5)])
    slack = 4 * np.hypot(errors[:-1], errors[1:]) + 1e-4
    assert (np.diff(means, axis=0) > -slack).all()
    gap = 0.5 * (np.expm1(2 * np.float64(wider)) - 2 * wider + exact * np.float64(shift) ** 2).sum()
    assert (np.abs(means[0] - (log_evidence() - gap)) < 4 * errors[0] + 1e-4).all()


@struct.dataclass
class OfTheImage(Normal):
    """A normal whose draws depend on the image and not on its position in the batch."""

    seeds: jax.Array | None = None

    def sample_and_log_prob(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> tuple[jax.Array, jax.Array]:
        def noise(seed: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(key, seed), (*sample_shape, self.loc.shape[-1]))

        z = self.loc + jnp.exp(self.log_scale) * jax.vmap(noise, out_axes=-2)(self.seeds)
        return z, self.log_prob(z)


class PosteriorOfTheImage(nn.Module):
    def __call__(self, x: jax.Array) -> OfTheImage:
        seeds = jax.lax.bitcast_convert_type(x[:, 0], jnp.uint32)
        return OfTheImage(jnp.tanh(x[:, :3]), x[:, 1:] - 1, seeds=seeds)


OBJECTIVES = [ELBO(2.0), IWAE(3), Renyi(0.5, 3), DReG(3), FreeBits(2.0), BetaTCVAE(50), InfoVAE(), DIPVAE()]


@pytest.mark.quick(2)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=map(repr, OBJECTIVES))
def test_the_loss_of_an_image_depends_on_neither_its_position_nor_the_other_images(objective: Callable) -> None:
    """Only objectives with `whole_batch` depend on the other images."""
    likelihood = partial(Normal, log_scale=jnp.log(NOISE), event_ndim=3)
    model = VAE(Flatten(), PosteriorOfTheImage(), StandardNormal(3), LinearDecoder(), likelihood)
    compiled = jax.jit(lambda x: apply_objective(model, objective, {"decoder": PARAMS["decoder"]}, x, KEY, 0))

    def terms(x: np.ndarray) -> dict[str, np.ndarray]:
        return jax.device_get(compiled(x))

    @examples(max_examples=5)
    @given(floats(2.0, 5, 2, 2, 1), st.permutations(range(5)))
    def check(x: np.ndarray, order: list[int]) -> None:
        found, permuted = terms(x), terms(x[order])
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
        jax.tree.map(lambda one, other: close(one[order], other), found, permuted)
        if not getattr(objective, "whole_batch", False):
            with_others = terms(np.concatenate([x[:2], 1 - x[2:]]))
            jax.tree.map(lambda one, other: close(one[:2], other[:2]), found, with_others)

    check()
    if getattr(objective, "whole_batch", False):
        assert abs(terms(IMAGES)["loss"][0] - terms(np.concatenate([IMAGES[:1], 1 - IMAGES[1:]]))["loss"][0]) > 1e-3


@pytest.mark.parametrize(
    ("name", "outputs", "levels"),
    [("bernoulli", 1, 2), ("discretized_logistic", 2, LEVELS), ("logistic_mixture", 20, LEVELS),
     ("categorical", LEVELS, LEVELS), ("beta_binomial", 2, LEVELS)],
)  # fmt: skip
def test_probabilities_of_pixel_levels_sum_to_one_for_every_decoder_output(
    name: str, outputs: int, levels: int
) -> None:
    every_level = jnp.linspace(0, 1, levels).reshape(-1, 1, 1, 1)

    @jax.jit
    def of_one_pixel(output: jax.Array) -> tuple[jax.Array, jax.Array]:
        p = LIKELIHOODS.make(name)(output[None, None])
        return p.log_prob(every_level), p.mean()

    @examples(max_examples=25)
    @given(floats(50.0, outputs))
    def check(output: np.ndarray) -> None:
        # For larger outputs JAX's float32 beta function loses digits: the sum is off by 7e-4 if both are e^7.
        assume(name != "beta_binomial" or output.min() < 5)
        log_probs, mean = map(np.float64, of_one_pixel(output))
        assert log_probs.max() <= 1e-5
        np.testing.assert_allclose(np.exp(log_probs).sum(), 1, atol=1e-4)
        assert 0 <= mean.item() <= 1

    check()


@struct.dataclass
class Scaled(Normal):
    """A density in other units: its logarithm is larger by `constant`."""

    constant: jax.Array | None = None

    def log_prob(self, x: jax.Array) -> jax.Array:
        return super().log_prob(x) + self.constant


class ScaledLikelihood(nn.Module):
    @nn.compact
    def __call__(self, output: jax.Array) -> Scaled:
        constant = self.param("constant", nn.initializers.zeros, ())
        return Scaled(output, jnp.log(NOISE), 3, constant)


def test_units_of_pixels_add_a_constant_to_the_evidence_and_keep_its_error() -> None:
    model = linear_gaussian(0.3).clone(likelihood=ScaledLikelihood())
    params = init(model, KEY, (2, 2, 1))
    bound, error, _ = log_likelihood(model, params, IMAGES, KEY, 100)

    @examples(max_examples=10)
    @given(st.floats(-1e4, 1e4, width=32))
    def check(constant: float) -> None:
        moved = params | {"likelihood": {"constant": jnp.asarray(constant)}}
        found, its_error, _ = log_likelihood(model, moved, IMAGES, KEY, 100)
        np.testing.assert_allclose(found, bound + constant, rtol=1e-6, atol=1e-4)
        np.testing.assert_allclose(its_error, error, rtol=1e-2)

    check()
