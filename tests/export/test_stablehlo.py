"""Functions as StableHLO compute what the model does, for any number of images, with JAX alone."""

import jax
import pytest
from exported_models import CASES, make_case
from jax import export

from flax_vae.export.formats import largest_error, random_arguments
from flax_vae.export.stablehlo import run_stablehlo, to_stablehlo
from flax_vae.presets import PRESETS

# Types are checked where functions are tested: here that would take most of the time.
pytestmark = [pytest.mark.quick_compile, pytest.mark.usefixtures("unchecked_types")]


@pytest.mark.parametrize("name", list(CASES)[: len(PRESETS)])
def test_every_preset_is_exported(name: str) -> None:
    """With other parts in turn; test_onnx.py has all of them, from the same graphs, and the two functions between."""
    functions = make_case(**CASES[name]).functions
    for function in (functions["sampler"], functions["log_likelihood"]):
        run = run_stablehlo(to_stablehlo(function))
        assert largest_error(function, run, random_arguments(function, {"b": 4, "k": 3})) < 1e-5, function.name


def test_it_says_what_it_is_and_runs_on_every_platform() -> None:
    function = make_case().functions["log_likelihood"]
    found = export.deserialize(bytearray(to_stablehlo(function)))
    assert found.platforms == ("cpu", "cuda", "tpu")
    assert found.fun_name == "log_likelihood"
    assert [str(argument.shape) for argument in found.in_avals] == ["(b, 5, 3, 1)", "(k, b, 3)"]
    assert [str(result.shape) for result in found.out_avals] == ["(b,)"]


def test_a_function_holds_the_parameters_that_it_needs_and_no_others() -> None:
    case = make_case(image_shape=(100, 100, 1))
    content = to_stablehlo(case.functions["decoder"])
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(case.params["decoder"]))
    assert held > 200_000
    assert held < len(content) < held + 10_000
