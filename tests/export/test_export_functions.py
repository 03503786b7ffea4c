"""The exported functions of noise against the model's own methods."""

from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported_models import CLASSES, Case, make_case

from flax_vae import bind, log_weights
from flax_vae.export.functions import ModelFunction
from flax_vae.models import POSTERIORS, PRIORS
from flax_vae.models.layerwise import layer_shapes

RANDOM = np.random.default_rng(0)
B, K = 3, 2
LADDER = "ladder(widths=(3, 4), depths=(1, 1), channels=2)"


def draws(*shape: Any) -> jax.Array:
    return jnp.asarray(np.float32(RANDOM.normal(size=shape)))


def some_images(case: Case) -> jax.Array:
    return jnp.asarray(RANDOM.integers(0, 256, size=(B, *case.image_shape)) / 255, jnp.float32)


def noise_for(function: ModelFunction, *k: int) -> jax.Array:
    (size,) = (argument.shape[-1] for argument in function.arguments if argument.name == "noise")
    return draws(*k, B, size)


def context(case: Case) -> list[jax.Array]:
    """Return the last argument of a conditional model."""
    return [jnp.eye(CLASSES)[jnp.arange(B) % CLASSES]] if case.context_dim else []


def bound(case: Case) -> Any:
    return bind(case.model, case.params, *context(case))


def split(case: Case, z: jax.Array) -> tuple[jax.Array, ...]:
    """Split latents "k b d" into layers."""
    events = [shape.event for shape in layer_shapes(*case)]
    ends = np.cumsum([np.prod(event) for event in events]).tolist()
    parts = jnp.split(z, ends[:-1], axis=-1)
    return tuple(part.reshape(*z.shape[:2], *event) for part, event in zip(parts, events, strict=True))


def flat_cases() -> dict[str, dict[str, Any]]:
    """Return cases with every prior, and posteriors and one or two layers in turn."""
    turns = zip(PRIORS, cycle(POSTERIORS), cycle((1, 2)), strict=False)
    return {
        f"{prior}-{posterior}-{levels}": {"prior": prior, "posterior": posterior, "levels": levels}
        for prior, posterior, levels in turns
    }


FLAT = flat_cases() | {
    "flows at pseudo-inputs": {"prior": "vamp", "posterior": "iaf"},
    "conditional": {"conditional": True},
    "autoregressive pixels": {"likelihood": "autoregressive"},
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", FLAT)
def test_functions_of_noise_agree_with_the_model(name: str) -> None:
    """Compare encoder, decoder and sampler at the same noise, and the bound at the encoder's draws.

    The exported bound computes log q from the noise; the model computes it from the latents, by the inverse of a flow.
    """
    case = make_case(**FLAT[name])
    functions, x = case.functions, some_images(case)
    noise, prior_noise = noise_for(functions["log_likelihood"], K), noise_for(functions["sampler"])

    @jax.jit
    def methods_and_functions() -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        model = bound(case)
        z = model.encode(x).from_noise(noise)
        weights = log_weights(model.infer_at(x, split(case, z)), x)
        methods = {
            "encoder": z[0],
            "decoder": model.decode(z[0]).mean(),
            "sampler": model.decode(model.prior().from_noise(prior_noise)).mean(),
            "log_likelihood": jax.nn.logsumexp(weights, axis=0) - jnp.log(K),
        }
        inputs = {
            "encoder": (x, noise[0]),
            "decoder": (z[0],),
            "sampler": (prior_noise,),
            "log_likelihood": (x, noise),
        }
        return methods, {key: function.call(*inputs[key], *context(case)) for key, function in functions.items()}

    expected, results = methods_and_functions()
    for key, function in functions.items():
        assert results[key].shape == tuple({"b": B}.get(str(size), size) for size in function.result.shape)
        np.testing.assert_allclose(results[key], expected[key], rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_functions_of_noise_agree_with_a_ladder() -> None:
    """Map the noise of each layer by its posterior given the layers above; decode the same latents."""
    case = make_case(preset=LADDER, posterior="full", levels=2, conditional=True)
    functions, x = case.functions, some_images(case)
    noise = noise_for(functions["log_likelihood"], 1)

    @jax.jit
    def methods_and_functions() -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        z = functions["encoder"].call(x, noise[0], *context(case))
        model = bound(case)
        inference = model.infer_at(x, split(case, z[None]))
        top, below = noise[:, :, :6], noise[:, :, 6:]  # two layers of a vector, and maps
        maps = [layer.posterior for layer in inference.layers[2:]]
        ends = np.cumsum([np.prod(q.loc.shape[2:]) for q in maps]).tolist()
        parts = zip(maps, jnp.split(below, ends[:-1], axis=-1), strict=True)
        again = [q.from_noise(part.reshape(q.loc.shape)).reshape(1, B, -1) for q, part in parts]
        again = jnp.concatenate([model.encode(x).from_noise(top), *again], axis=-1)[0]
        images = functions["decoder"].call(z, *context(case))
        bounds = functions["log_likelihood"].call(x, noise, *context(case))
        return (again, inference.likelihood.mean()[0], log_weights(inference, x)[0]), (z, images, bounds)

    (again, decoded, log_likelihood), (z, images, bounds) = methods_and_functions()
    np.testing.assert_allclose(z, again, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(images, decoded, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bounds, log_likelihood, rtol=1e-4)


@pytest.mark.slow
def test_the_sampler_of_a_ladder_agrees_with_generate_at_the_same_noise() -> None:
    case = make_case(preset=LADDER)

    @jax.jit
    def sampled_and_generated(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        top_key, below_key = jax.random.split(key)
        events = [shape.event for shape in layer_shapes(*case)]
        noise = [jax.random.normal(top_key, (B, *events[0]))]
        for number, event in enumerate(events[1:]):
            noise.append(jax.random.normal(jax.random.fold_in(below_key, number), (1, B, *event)).reshape(B, -1))
        images = case.functions["sampler"].call(jnp.concatenate(noise, axis=-1))
        return images, bound(case).generate(key, B).mean()

    np.testing.assert_allclose(*sampled_and_generated(jax.random.key(1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("prior", "fixed"), [("flow", 0), ("mixture", 1)])
def test_a_temperature_scales_the_noise_of_the_sampler(prior: str, fixed: int) -> None:
    """Scale all noise except the number that chooses a mixture's component."""
    case = make_case(prior=prior)
    function = case.functions["sampler"]
    noise = noise_for(function)

    @jax.jit
    def at_half_temperature(noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = bound(case)
        images = model.decode(model.prior().tempered(0.5).from_noise(noise)).mean()
        return function.call(noise.at[:, fixed:].multiply(0.5)), images

    np.testing.assert_allclose(*at_half_temperature(noise), rtol=1e-5)
    assert ("selects a component" in function.arguments[0].meaning) == bool(fixed)


def test_functions_compute_in_float32_after_training_in_bfloat16() -> None:
    case = make_case()
    half, z = case._replace(model=case.model.clone(dtype="bfloat16")), draws(B, 3)
    decoders = [each.functions["decoder"].call for each in (half, case)]
    np.testing.assert_array_equal(*jax.jit(lambda z: [decode(z) for decode in decoders])(z))
