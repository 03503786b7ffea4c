"""A function whose file computes other numbers than the model is never written."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae import UserError
from flax_vae.export.formats import FORMATS
from flax_vae.export.function_files import FunctionFiles, random_arguments
from flax_vae.export.functions import Argument, ModelFunction

Z = Argument("z", ("b", 2), "latents")


def function(call: Callable[[jax.Array], jax.Array]) -> ModelFunction:
    return ModelFunction("decoder", call, (Z,), Argument("mean", ("b", 2), "the same"))


def computing(run: Callable[[np.ndarray], np.ndarray]) -> FunctionFiles:
    return FunctionFiles(".test", lambda _: b"content", lambda _: run)


def test_rounding_passes() -> None:
    assert computing(lambda z: np.sin(z) + np.float32(5e-6)).checked_bytes(function(jnp.sin)) == b"content"


@pytest.mark.parametrize(
    "run",
    [
        lambda z: np.sin(z) + np.float32(1e-4),
        lambda z: np.sin(z) * np.nan,
        lambda z: np.sin(z)[:, :1],
        lambda z: np.where(len(z) > 1, np.float32(0), np.sin(z)),
    ],
    ids=["off", "nan", "shape", "right for one image only"],
)
def test_a_wrong_result_is_refused(run: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(UserError, match=r"decoder\.test would differ from the model by .* Nothing was exported"):
        computing(run).checked_bytes(function(jnp.sin))


def test_a_file_may_amplify_rounding_as_much_as_the_model_does() -> None:
    steep = function(lambda z: jnp.sin(1e4 * z))
    exact = computing(lambda z: np.sin(1e4 * z.astype(np.float64)).astype(np.float32))
    assert exact.checked_bytes(steep) == b"content"
    with pytest.raises(UserError, match="would differ from the model"):
        computing(lambda z: np.sin(1.1e4 * z)).checked_bytes(steep)


def test_random_arguments_are_images_and_normal_draws_of_the_requested_sizes() -> None:
    arguments = (Argument("x", ("b", 4, 4, 1), "images"), Argument("noise", ("k", "b", 500), "draws"))
    x, noise = random_arguments(ModelFunction("f", jnp.add, arguments, Z), {"b": 3, "k": 2})
    assert (x.shape, noise.shape) == ((3, 4, 4, 1), (2, 3, 500))
    assert 0 <= x.min() < x.max() <= 1
    assert abs(noise.std() - 1) < 0.05
    assert x.dtype == noise.dtype == np.float32


@pytest.mark.parametrize("files", [f.write for f in map(FORMATS.make, FORMATS) if isinstance(f.write, FunctionFiles)])
def test_a_function_of_fixed_sizes_is_written_too(files: FunctionFiles) -> None:
    fixed = ModelFunction("f", jnp.sin, (Argument("z", (2, 3), "latents"),), Argument("y", (2, 3), "sines"))
    z = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(files.run(files.checked_bytes(fixed))(z), np.sin(z), rtol=1e-6)
