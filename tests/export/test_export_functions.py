"""A model's functions of noise against what the model itself does with it."""

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

pytestmark = pytest.mark.quick_compile

RANDOM = np.random.default_rng(0)
B, K = 3, 2
LADDER = "ladder(widths=(3, 4), depths=(1, 1), channels=2)"


def draws(*shape: Any) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def some_images(case: Case) -> jax.Array:
    return jnp.asarray(RANDOM.integers(0, 256, size=(B, *case.image_shape)) / 255, jnp.float32)


def noise_for(function: ModelFunction, *k: int) -> jax.Array:
    (size,) = (argument.shape[-1] for argument in function.arguments if argument.name == "noise")
    return draws(*k, B, size)


def given(case: Case) -> list[jax.Array]:
    """What a conditional model takes last."""
    return [jnp.eye(CLASSES)[jnp.arange(B) % CLASSES]] if case.context_dim else []


def bound(case: Case) -> Any:
    return bind(case.model, case.params, *given(case))


def split(case: Case, z: jax.Array) -> tuple[jax.Array, ...]:
    """Latents "k b D" layer by layer."""
    events = [shape.event for shape in layer_shapes(*case)]
    ends = np.cumsum([np.prod(event) for event in events]).tolist()
    parts = jnp.split(z, ends[:-1], axis=-1)
    return tuple(part.reshape(*z.shape[:2], *event) for part, event in zip(parts, events, strict=True))


def flat_cases() -> dict[str, dict[str, Any]]:
    """Every prior, and with it every posterior in turn, of one layer and of two."""
    found = zip(PRIORS, cycle(POSTERIORS), cycle((1, 2)), strict=False)
    return {
        f"{prior}-{posterior}-{levels}": {"prior": prior, "posterior": posterior, "levels": levels}
        for prior, posterior, levels in found
    }


FLAT = flat_cases() | {
    "flows at pseudo-inputs": {"prior": "vamp", "posterior": "iaf"},
    "conditional": {"conditional": True},
    "pixel after pixel": {"likelihood": "autoregressive"},
}


@pytest.mark.parametrize("name", FLAT)
def test_functions_of_noise_are_those_of_the_model(name: str) -> None:
    """Encoder, decoder and sampler from the same noise; the bound from the densities of the encoder's draws.

    The bound has these from the noise, the model from the latents: of a flow, by its inverse.
    """
    case = make_case(**FLAT[name])
    functions, x = case.functions, some_images(case)
    noise, prior_noise = noise_for(functions["log_likelihood"], K), noise_for(functions["sampler"])

    @jax.jit
    def own() -> dict[str, jax.Array]:
        model = bound(case)
        z = model.encode(x).from_noise(noise)
        weights = log_weights(model.infer_at(x, split(case, z)), x)
        return {
            "encoder": z[0],
            "decoder": model.decode(z[0]).mean(),
            "sampler": model.decode(model.prior().from_noise(prior_noise)).mean(),
            "log_likelihood": jax.nn.logsumexp(weights, axis=0) - jnp.log(K),
        }

    expected = own()
    inputs = {
        "encoder": (x, noise[0]),
        "decoder": (expected["encoder"],),
        "sampler": (prior_noise,),
        "log_likelihood": (x, noise),
    }
    for key, function in functions.items():
        found = jax.jit(function.call)(*inputs[key], *given(case))
        assert found.shape == tuple({"b": B}.get(str(size), size) for size in function.result.shape)
        np.testing.assert_allclose(found, expected[key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_functions_of_noise_are_those_of_a_ladder() -> None:
    """Each layer's latents are what its posterior, given those above, makes of its noise; the rest is theirs."""
    case = make_case(preset=LADDER, posterior="full", levels=2, conditional=True)
    functions, x = case.functions, some_images(case)
    noise = noise_for(functions["log_likelihood"], 1)
    z = jax.jit(functions["encoder"].call)(x, noise[0], *given(case))

    @jax.jit
    def own(z: jax.Array) -> tuple[jax.Array, ...]:
        model = bound(case)
        inference = model.infer_at(x, split(case, z[None]))
        top, below = noise[:, :, :6], noise[:, :, 6:]  # two layers of a vector, and maps
        maps = [layer.posterior for layer in inference.layers[2:]]
        ends = np.cumsum([np.prod(q.loc.shape[2:]) for q in maps]).tolist()
        parts = zip(maps, jnp.split(below, ends[:-1], axis=-1), strict=True)
        again = [q.from_noise(part.reshape(q.loc.shape)).reshape(1, B, -1) for q, part in parts]
        again = jnp.concatenate([model.encode(x).from_noise(top), *again], axis=-1)[0]
        return again, inference.likelihood.mean()[0], log_weights(inference, x)[0]

    again, decoded, log_likelihood = own(z)
    np.testing.assert_allclose(z, again, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.jit(functions["decoder"].call)(z, *given(case)), decoded, rtol=1e-4, atol=1e-5)
    found = jax.jit(functions["log_likelihood"].call)(x, noise, *given(case))
    np.testing.assert_allclose(found, log_likelihood, rtol=1e-4)


def test_the_sampler_of_a_ladder_makes_what_generate_makes_of_the_same_noise() -> None:
    case = make_case(preset=LADDER)
    key = jax.random.key(1)
    top_key, below_key = jax.random.split(key)
    events = [shape.event for shape in layer_shapes(*case)]
    noise = [jax.random.normal(top_key, (B, *events[0]))]
    for number, event in enumerate(events[1:]):
        noise.append(jax.random.normal(jax.random.fold_in(below_key, number), (1, B, *event)).reshape(B, -1))
    found = jax.jit(case.functions["sampler"].call)(jnp.concatenate(noise, axis=-1))
    expected = jax.jit(lambda: bound(case).generate(key, B).mean())()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("prior", "fixed"), [("flow", 0), ("mixture", 1)])
def test_a_temperature_is_a_scale_of_the_samplers_noise(prior: str, fixed: int) -> None:
    """But for the number that chooses a mixture's component."""
    case = make_case(prior=prior)
    function = case.functions["sampler"]
    noise, model = noise_for(function), bound(case)
    cold = model.prior().tempered(0.5).from_noise(noise)
    scaled = noise.at[:, fixed:].multiply(0.5)
    np.testing.assert_allclose(function.call(scaled), model.decode(cold).mean(), rtol=1e-5)
    assert ("chooses a component" in function.arguments[0].meaning) == bool(fixed)


def test_functions_compute_in_float32_whatever_the_training_did() -> None:
    case = make_case()
    half, z = case._replace(model=case.model.clone(dtype="bfloat16")), draws(B, 3)
    np.testing.assert_array_equal(half.functions["decoder"].call(z), case.functions["decoder"].call(z))
