"""StableHLO files have signatures and platforms; test_computed_files.py runs them."""

import jax
import numpy as np
import pytest
from exported_models import make_case
from jax import export

from flax_vae.export.formats.stablehlo import to_stablehlo
from flax_vae.export.function_files import random_arguments

# test_export_functions.py checks types; checking them here would take most of the time.
pytestmark = pytest.mark.usefixtures("unchecked_types")


def test_a_file_has_a_signature_and_every_platform() -> None:
    function = make_case().functions["log_likelihood"]
    exported = export.deserialize(bytearray(to_stablehlo(function)))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.fun_name == "log_likelihood"
    assert [str(argument.shape) for argument in exported.in_avals] == ["(b, 5, 3, 1)", "(k, b, 3)"]
    assert [str(result.shape) for result in exported.out_avals] == ["(b,)"]


def test_a_file_holds_only_the_parameters_that_its_function_needs() -> None:
    case = make_case(image_shape=(100, 100, 1))
    content = to_stablehlo(case.functions["decoder"])
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(case.params["decoder"]))
    assert size > 200_000
    assert 2 * size < len(content) < 2 * size + 20_000  # once for the function, once for its gradient


@pytest.mark.slow
def test_a_file_has_the_gradient_of_its_function() -> None:
    function = make_case().functions["log_likelihood"]
    call = export.deserialize(bytearray(to_stablehlo(function))).call
    x, noise = random_arguments(function, {"b": 4, "k": 3})
    got, expected = (jax.grad(lambda x, f=f: f(x, noise).sum())(x) for f in (call, function.call))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
