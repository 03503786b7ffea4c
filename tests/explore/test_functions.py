"""Models in a page encode, decode and sample like JAX, to one part in ten thousand."""

import json
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from explored import random_params

from flax_vae import Config, UserError, bind
from flax_vae.evaluation.run import load_run
from flax_vae.explore import Functions, graphs, halved, program
from flax_vae.explore.functions import sizes
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS
from flax_vae.presets import PRESETS
from flax_vae.runs.models import make_model

# JAX computes the expected numbers; the page's engine is tested. test_page.py checks types; here it would take long.
pytestmark = pytest.mark.usefixtures("unchecked_types")

Open = Callable[[dict[str, Any]], Callable[..., list[np.ndarray]]]
SMALL, LARGE = (5, 4, 2), (28, 28, 1)
DENSE = {"preset": "tutorial_dense(features=(8,))"}
LADDER = "ladder(widths=(4, 6), depths=(1, 1), channels=2)"
HEADS = ("bernoulli", "beta_binomial", "categorical", "continuous_bernoulli", "discretized_logistic",
         "logistic_mixture", "per_pixel_normal")  # fmt: skip


def check(
    open_page: Open, model: nn.Module, params: Any, image_shape: tuple[int, int, int], names: str, context_dim: int = 0
) -> None:
    """Compare functions of a model in a page with JAX."""
    compiled = program(graphs(model, params, image_shape, context_dim, names.split()))
    run, functions = open_page(json.loads(json.dumps(compiled))), Functions(model, params)
    random = np.random.default_rng(1)
    for name, graph in compiled["graphs"].items():
        inputs = [random.normal(size=shape).astype(np.float32) for _, shape in graph["inputs"]]
        if name == "encode":
            inputs[0] = random.uniform(size=(1, *image_shape)).astype(np.float32)
        if name == "sample":
            inputs[1] = np.float32(0.8)
        expected = jax.tree.leaves(jax.jit(getattr(functions, name))(*inputs))
        for actual, wanted in zip(run(name, *inputs), map(np.asarray, expected), strict=True):
            assert actual.shape == wanted.shape
            assert wanted.std() > 1e-3
            size = 1 if wanted.shape == image_shape else np.abs(wanted).max()
            np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-4 * size)


def check_parts(open_page: Open, names: str, **parts: Any) -> None:
    model = make_model(Config(**DENSE | {"latent_dim": 3} | parts), SMALL)
    check(open_page, model, random_params(model, SMALL), SMALL, names)


@pytest.mark.quick(1)
@pytest.mark.parametrize("preset", sorted(PRESETS, key="tutorial_dense".__ne__))
def test_presets(preset: str, open_page: Open) -> None:
    """Presets have their full size. `test_conditional_models` and test_page.py have small ones of the largest."""
    model = make_model(Config(preset=preset), LARGE)
    check(open_page, model, random_params(model, LARGE), LARGE, "encode decode sample")


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("preset", "levels"), [("tutorial_dense(features=(8,))", 1), ("ladder(widths=(4,), depths=(1,), channels=2)", 2)]
)
@pytest.mark.parametrize("prior", PRIORS)
def test_priors(prior: str, preset: str, levels: int, open_page: Open) -> None:
    check_parts(open_page, "sample", preset=preset, prior=prior, levels=levels)


@pytest.mark.quick(1)
@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_posteriors(posterior: str, levels: int, open_page: Open) -> None:
    check_parts(open_page, "encode", posterior=posterior, levels=levels)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "likelihood",
    [*LIKELIHOODS, *(f"autoregressive(reach=2, head={h!r})" for h in HEADS)],
)
def test_likelihoods(likelihood: str, open_page: Open) -> None:
    check_parts(open_page, "decode", likelihood=likelihood)


@pytest.mark.slow
def test_a_ladder_with_autoregressive_pixels(open_page: Open) -> None:
    check_parts(open_page, "decode", preset=LADDER, likelihood="autoregressive(reach=1)")


@pytest.mark.quick(1)
@pytest.mark.parametrize("preset", ["tutorial_dense", LADDER])
def test_conditional_models(preset: str, open_page: Open) -> None:
    """Conditional models take a context as an additional input."""
    model = make_model(Config(preset=preset, conditional=True), SMALL)
    check(open_page, model, random_params(model, SMALL, 3), SMALL, "encode decode sample", context_dim=3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "names"), [("tutorial_conv", "encode decode"), ("mlp_vamp", "sample")])
def test_trained_models(name: str, names: str, open_page: Open) -> None:
    run = load_run(f"pretrained:{name}")
    check(open_page, run.model, halved(run.params), LARGE, names)


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_a_posterior_is_its_mean_and_covariance(posterior: str) -> None:
    x, model = jnp.full((1, *SMALL), 0.3), make_model(Config(**DENSE, latent_dim=2, posterior=posterior), SMALL)
    params = random_params(model, SMALL)
    centre, scale = jax.jit(Functions(model, params).encode)(x)
    q = jax.jit(lambda x: bind(model, params).encode(x))(x)
    np.testing.assert_allclose(centre, q.mean()[0], rtol=1e-5)
    expected = np.diag(np.exp(q.log_scale[0])) if posterior == "diagonal" else q.scale_tril[0]
    np.testing.assert_allclose(scale, expected, rtol=1e-5)


@pytest.mark.slow
def test_latents_below_the_top_of_a_ladder_are_the_means_of_their_priors() -> None:
    """As in `infer_top`, here with a top posterior concentrated at its mean."""
    ladder = make_model(Config(preset=LADDER, latent_dim=2), SMALL)
    params = random_params(ladder, SMALL)
    head = params["posterior"]["log_var"]
    narrow = {"kernel": jnp.zeros_like(head["kernel"]), "bias": jnp.full_like(head["bias"], -30.0)}
    params = params | {"posterior": params["posterior"] | {"log_var": narrow}}

    def images(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        top = bind(ladder, params).encode(x).mean()
        alone = bind(ladder, params).infer_top(x, jax.random.key(0), 1).likelihood
        return Functions(ladder, params).decode(top), alone.mean()[0, 0]

    np.testing.assert_allclose(*jax.jit(images)(jnp.full((1, *SMALL), 0.3)), rtol=1e-4)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("preset", "prior", "size"),
    [("tutorial_dense", "normal", 3), ("tutorial_dense", "mixture", 4), (LADDER, "flow", 3 + 2 * (2 * 1 + 3 * 2))],
)
def test_a_sample_is_a_function_of_its_noise(preset: str, prior: str, size: int) -> None:
    """Noise has one number per latent, and one that selects a component; at temperature 0 only that one matters."""
    model = make_model(Config(preset=preset, prior=prior, latent_dim=3), SMALL)
    params = random_params(model, SMALL)
    assert sizes(model, params, SMALL) == (3, size)
    noise = jnp.full((1, size), -1.0)
    sample = jax.jit(Functions(model, params).sample)
    cold, hot = (
        [sample(draws, jnp.float32(temperature)) for draws in (noise, noise.at[:, 1:].set(-2.0))]
        for temperature in (0.0, 1.0)
    )
    jax.tree.map(np.testing.assert_allclose, *cold)
    assert all(np.abs(one - other).max() > 1e-3 for one, other in zip(*hot, strict=True))


class Sorted(nn.Module):
    """An encoder that the engine does not support."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return jnp.sort(x.reshape(len(x), -1))


def test_an_unsupported_operation_is_named() -> None:
    model = make_model(Config(preset="tutorial_dense", latent_dim=2), SMALL)
    changed = model.clone(encoder=Sorted())
    with pytest.raises(UserError, match="the model computes 'sort'"):
        graphs(changed, random_params(changed, SMALL), SMALL)


def test_a_model_without_a_latent_vector_is_refused() -> None:
    class Other(nn.Module):
        def infer(self) -> None:
            pass

    with pytest.raises(UserError, match="explore needs a model with one latent vector"):
        graphs(Other(), {}, SMALL)
