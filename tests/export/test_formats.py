"""Nothing that computes something else than the model leaves the house."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae import UserError
from flax_vae.export.formats import FORMATS, Format, random_arguments, written
from flax_vae.export.functions import Argument, ModelFunction

Z = Argument("z", ("b", 2), "latents")


def function(call: Callable[[jax.Array], jax.Array]) -> ModelFunction:
    return ModelFunction("decoder", call, (Z,), Argument("mean", ("b", 2), "the same"))


def writes(run: Callable[[np.ndarray], np.ndarray]) -> Format:
    return Format(".test", lambda _: b"content", lambda _: run)


def test_rounding_passes() -> None:
    assert written(function(jnp.sin), writes(lambda z: np.sin(z) + np.float32(5e-6))) == b"content"


@pytest.mark.parametrize(
    "run",
    [
        lambda z: np.sin(z) + np.float32(1e-4),
        lambda z: np.sin(z) * np.nan,
        lambda z: np.sin(z)[:, :1],
        lambda z: np.where(len(z) > 1, np.float32(0), np.sin(z)),
    ],
    ids=["off", "nan", "shape", "one image alone"],
)
def test_what_is_wrong_is_refused(run: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(UserError, match=r"decoder as test differs from the model by .*: nothing is written"):
        written(function(jnp.sin), writes(run))


def test_where_the_model_enlarges_rounding_a_format_may_too() -> None:
    steep = function(lambda z: jnp.sin(1e4 * z))
    exact = writes(lambda z: np.sin(1e4 * z.astype(np.float64)).astype(np.float32))
    assert written(steep, exact) == b"content"
    with pytest.raises(UserError, match="differs from the model"):
        written(steep, writes(lambda z: np.sin(1.1e4 * z)))


def test_arguments_are_images_and_draws_of_the_sizes_that_are_asked_for() -> None:
    arguments = (Argument("x", ("b", 4, 4, 1), "images"), Argument("noise", ("k", "b", 500), "draws"))
    x, noise = random_arguments(ModelFunction("f", jnp.add, arguments, Z), {"b": 3, "k": 2})
    assert (x.shape, noise.shape) == ((3, 4, 4, 1), (2, 3, 500))
    assert 0 <= x.min() < x.max() <= 1
    assert abs(noise.std() - 1) < 0.05
    assert x.dtype == noise.dtype == np.float32


@pytest.mark.parametrize("name", FORMATS)
def test_a_function_of_a_size_that_is_not_free_is_written_too(name: str) -> None:
    fixed = ModelFunction("f", jnp.sin, (Argument("z", (2, 3), "latents"),), Argument("y", (2, 3), "sines"))
    z = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(FORMATS[name].run(written(fixed, FORMATS[name]))(z), np.sin(z), rtol=1e-6)
