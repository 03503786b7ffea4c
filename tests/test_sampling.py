"""Encoding, decoding and sampling against a linear model."""

import math
from typing import Any

import jax
import numpy as np
import optax
import pytest
from known_models import linear_gaussian, params_of

from flax_vae import (
    ELBO,
    Batch,
    BernoulliLikelihood,
    NormalLikelihood,
    PerPixelNormalLikelihood,
    UserError,
    decode,
    encode,
    init,
    init_state,
    interpolate,
    latent_grid,
    log_likelihood,
    make_train_step,
    reconstruct,
    reconstruct_layers,
    sample,
    sample_gmm,
    traverse,
    tutorial_dense,
)
from flax_vae.compression import compress
from flax_vae.metrics.annealed import annealed_log_likelihood
from flax_vae.metrics.latents import elbo_surgery, posterior_means
from flax_vae.metrics.per_example import per_example_statistics
from flax_vae.objectives.base import apply_objective
from flax_vae.training.step import TrainState

KEY = jax.random.key(0)
VAE = linear_gaussian()
PARAMS = params_of(VAE)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 1), np.uint8)


def means(images: Any) -> np.ndarray:
    return np.asarray(encode(VAE, PARAMS, images).loc)


def decoded(z: np.ndarray) -> np.ndarray:
    """Return the images of latents "... 3", decoded in one batch of 25 for all tests."""
    rows = z.reshape(-1, 3)
    images = decode(VAE, PARAMS, np.concatenate([rows, np.zeros((25 - len(rows), 3), np.float32)]))
    return np.asarray(images)[: len(rows)].reshape(*z.shape[:-1], 2, 2, 1)


def test_samples_are_a_function_of_the_key() -> None:
    images = sample(VAE, PARAMS, KEY, 5)
    assert images.shape == (5, 2, 2, 1)
    np.testing.assert_array_equal(images, sample(VAE, PARAMS, KEY, 5))
    assert not np.array_equal(images, sample(VAE, PARAMS, jax.random.key(1), 5))


def test_sampling_compiles_once_per_shape() -> None:
    model = tutorial_dense((6, 6, 1))
    shapes = jax.eval_shape(lambda: init(model, KEY, (6, 6, 1)))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    before = sample._cache_size()
    for seed, temperature in ((0, 1.0), (1, 0.5), (2, 2.0)):
        sample(model, params, jax.random.key(seed), 7, temperature)
    assert sample._cache_size() == before + 1
    sample(tutorial_dense((6, 6, 1)), params, KEY, 7, 1.0)  # equal models share a compiled program
    assert sample._cache_size() == before + 1


def test_samples_are_draws_from_the_prior_decoded() -> None:
    """x = Wᵀz has covariance WᵀW, multiplied by the squared temperature."""
    weights = np.asarray(PARAMS["decoder"]["weights"])
    for temperature in (1.0, 0.5):
        images = np.asarray(sample(VAE, PARAMS, KEY, 20_000, temperature)).reshape(-1, 4)
        np.testing.assert_allclose(np.cov(images.T), temperature**2 * weights.T @ weights, atol=0.1)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, np.float32(math.nan)])
def test_a_temperature_that_is_no_scale_is_refused(temperature: Any) -> None:
    """Also within a traced function; a temperature that is itself traced cannot be looked at."""
    for use in (sample, jax.jit(sample, static_argnums=(0, 3, 4))):
        with pytest.raises(UserError, match="`temperature` must be greater than 0"):
            use(VAE, PARAMS, KEY, 3, temperature)


def test_encode_and_decode() -> None:
    z = means(PIXELS)
    assert z.shape == (4, 3)
    np.testing.assert_allclose(decoded(z).reshape(4, 4), z @ np.asarray(PARAMS["decoder"]["weights"]), rtol=1e-5)
    assert reconstruct(VAE, PARAMS, PIXELS, KEY).shape == PIXELS.shape


def test_true_is_one() -> None:
    """bool needs no scale: masks and binary images are 0 and 1 for every likelihood."""
    np.testing.assert_array_equal(means(PIXELS > 99), means((PIXELS > 99).astype(np.float32)))


def test_uint8_and_float_images_have_the_same_posterior() -> None:
    np.testing.assert_allclose(means(PIXELS), means(PIXELS.astype(np.float32) / 255), rtol=1e-5)


USES = {
    "encode": lambda images: encode(VAE, PARAMS, images),
    "reconstruct": lambda images: reconstruct(VAE, PARAMS, images, KEY),
    "interpolate": lambda images: interpolate(VAE, PARAMS, images[0], images[1], 3),
    "log_likelihood": lambda images: log_likelihood(VAE, PARAMS, images, KEY, 10),
    "posterior_means": lambda images: posterior_means(VAE, PARAMS, images),
    "per_example_statistics": lambda images: per_example_statistics(VAE, PARAMS, images, KEY),
    "train step": lambda images: apply_objective(VAE, ELBO(), PARAMS, images, KEY, 0),
    "compress": lambda images: compress(VAE.clone(likelihood=BernoulliLikelihood()), PARAMS, images),
}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
@pytest.mark.parametrize("use", USES)
def test_images_of_unknown_scale_are_refused(use: str, dtype: type) -> None:
    """Functions of images refuse integers other than uint8: they may mean bytes or fractions."""
    with pytest.raises(UserError, match=r"^(x is|Images are) (int8|int32|int64)"):
        USES[use](PIXELS.astype(dtype))


UNIT_VAE = VAE.clone(likelihood=BernoulliLikelihood())
FROM_HOST = {
    "encode": lambda model, x: encode(model, PARAMS, x),
    "encode by name": lambda model, x: encode(model=model, params=PARAMS, images=x),
    "encode with contexts": lambda model, x: encode(model, PARAMS, Batch(x, np.zeros((4, 1), np.float32))),
    "reconstruct": lambda model, x: reconstruct(model, PARAMS, x, KEY),
    "reconstruct_layers": lambda model, x: reconstruct_layers(model, PARAMS, x, KEY),
    "interpolate": lambda model, x: interpolate(model, PARAMS, 0 * PIXELS[0], x[-1], 3),
    "traverse": lambda model, x: traverse(model, PARAMS, x[-1]),
    "log_likelihood": lambda model, x: log_likelihood(model, PARAMS, x, KEY, 10),
    "annealed_log_likelihood": lambda model, x: annealed_log_likelihood(model, PARAMS, x, KEY),
    "posterior_means": lambda model, x: posterior_means(model, PARAMS, x),
    "per_example_statistics": lambda model, x: per_example_statistics(model, PARAMS, x, KEY),
    "elbo_surgery": lambda model, x: elbo_surgery(model, PARAMS, x, KEY),
    "sample_gmm": lambda model, x: sample_gmm(model, PARAMS, x, KEY, 3),
    "train step": lambda model, x: make_train_step(model, ELBO(), SGD)(TrainState.create(PARAMS, SGD, KEY), x),
}
SGD = optax.sgd(0.1)
FLOATS = {"bytes": (0, 255), "around 0": (-1, 1), "not a number": (0, np.nan), "infinite": (0, np.inf)}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("use", FROM_HOST)
def test_floats_beyond_the_pixels_are_refused(use: str, kind: str) -> None:
    """Whatever reads images from the host refuses floats that the likelihood does not take, before it computes."""
    x = np.zeros((4, 2, 2, 1), np.float32)
    x[:, 0, 0], x[:, 1, 1] = FLOATS[kind]
    with pytest.raises(UserError, match=r"^x holds float32 from (0|-1|nan) to .*; pass uint8 from 0 to 255, or floats"):
        FROM_HOST[use](UNIT_VAE, x)


def test_means_that_are_rounded_beyond_the_pixels_are_images() -> None:
    assert encode(UNIT_VAE, PARAMS, np.nextafter(np.ones((2, 2, 2, 1), np.float32), 2)).loc.shape == (2, 3)


UNFIT = {
    "a list": (lambda x: x.tolist(), "x is a list: pass an array"),
    "a context of an unconditional model": (lambda x: Batch(x, np.ones((4, 3), np.float32)), "context has another"),
    "a context of fewer examples": (lambda x: Batch(x, np.ones((3, 3), np.float32)), "has 3 rows for 4 examples"),
}


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("kind", UNFIT)
def test_batches_that_do_not_fit_the_parameters_are_refused(kind: str) -> None:
    """The kind: a batch that fails inside of a network."""
    change, message = UNFIT[kind]
    model, tx = tutorial_dense((2, 2, 1), features=(4,)), optax.sgd(0.1)
    state = init_state(model, tx, KEY, (2, 2, 1))
    for use in (encode, posterior_means, lambda *arguments: make_train_step(model, ELBO(), tx)(state, arguments[-1])):
        with pytest.raises(UserError, match=message):
            use(model, state.params, change(PIXELS))


def test_a_density_of_any_number_takes_standardised_images() -> None:
    """But neither NaN nor infinity."""
    for likelihood in (NormalLikelihood(), PerPixelNormalLikelihood(), lambda output: output):
        model = VAE.clone(likelihood=likelihood)
        assert np.isfinite(encode(model, PARAMS, 100 * PIXELS.astype(np.float32) - 3).loc).all()
        with pytest.raises(UserError, match="pass finite floats"):
            encode(model, PARAMS, np.full((4, 2, 2, 1), np.nan))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_cannot_be_compressed(dtype: type) -> None:
    """Not even floats in [0, 1]: they have no levels to restore."""
    with pytest.raises(UserError, match="only uint8"):
        USES["compress"](PIXELS.astype(dtype) / 255)


def test_interpolation_starts_and_ends_at_the_means() -> None:
    ends = decoded(means(PIXELS)[:2])
    steps = np.asarray(interpolate(VAE, PARAMS, PIXELS[0], PIXELS[1], 5))
    assert steps.shape == (5, 2, 2, 1)
    np.testing.assert_allclose(steps[[0, 4]], ends, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(steps[2], ends.mean(0), rtol=1e-4, atol=1e-6)  # the decoder is linear


@pytest.mark.parametrize("plane", [(0, 1), (1, 2), (2,)])
def test_the_grid_decodes_points_of_its_plane(plane: tuple[int, ...]) -> None:
    grid = latent_grid(VAE, PARAMS, 5, 2.0, plane)
    assert grid.shape == (5 if len(plane) == 2 else 1, 5, 2, 2, 1)
    ticks = np.linspace(-2, 2, 5)
    z = np.zeros((*grid.shape[:2], 3), np.float32)
    z[..., plane[0]] = ticks
    if len(plane) == 2:
        z[..., plane[1]] = ticks[:, None]
    np.testing.assert_allclose(grid, decoded(z), atol=1e-5)


def test_a_traversal_moves_one_dimension_per_row() -> None:
    rows = traverse(VAE, PARAMS, PIXELS[0], 3, 1.5)
    z = np.tile(means(PIXELS)[0], (3, 3, 1))
    for i in range(3):
        z[i, :, i] = (-1.5, 0.0, 1.5)
    np.testing.assert_allclose(rows, decoded(z), rtol=1e-4, atol=1e-5)
