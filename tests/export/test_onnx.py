"""Functions as ONNX compute in ONNX Runtime what the model does, for any number of images."""

import logging
import sys

import jax
import onnx
import pytest
from exported_models import CASES, make_case

from flax_vae import UserError
from flax_vae.export.formats import largest_error, random_arguments
from flax_vae.export.functions import Argument, ModelFunction
from flax_vae.export.onnx import run_onnx, to_onnx

# Types are checked where functions are tested: here that would take most of the time.
pytestmark = [pytest.mark.quick_compile, pytest.mark.usefixtures("unchecked_types")]


@pytest.mark.parametrize("name", CASES)
def test_every_part_is_exported(name: str) -> None:
    case = make_case(**CASES[name])
    for function in case.functions.values():
        run = run_onnx(to_onnx(function))
        assert largest_error(function, run, random_arguments(function, {"b": 4, "k": 3})) < 1e-5, function.name


def test_it_says_what_it_takes_and_gives() -> None:
    case = make_case(conditional=True)
    model = onnx.load_from_string(to_onnx(case.functions["log_likelihood"]))
    onnx.checker.check_model(model)
    sizes = {
        each.name: [size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.output)
    }
    assert sizes == {"x": ["b", 5, 3, 1], "noise": ["k", "b", 3], "context": ["b", 2], "log_likelihood": ["b"]}
    assert model.graph.input[0].doc_string == "images with pixels in [0, 1]"
    assert model.graph.name == "log_likelihood"


def test_what_onnx_lacks_is_said_in_one_line() -> None:
    z, mean = Argument("z", ("b", 4), "latents"), Argument("mean", ("b", 7), "latents with zeros between")
    function = ModelFunction("decoder", lambda z: jax.lax.pad(z, 0.0, [(0, 0, 0), (0, 0, 1)]), (z,), mean)
    with pytest.raises(UserError, match=r"decoder cannot be written as ONNX: .* --format stablehlo can"):
        to_onnx(function)


@pytest.mark.parametrize("package", ["jax2onnx", "onnxruntime"])
def test_without_the_extra_it_says_how_to_get_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = make_case().functions["decoder"]
    content = to_onnx(function)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'flax_vae\[onnx\]'"):
        run_onnx(content) if package == "onnxruntime" else to_onnx(function)


def test_logging_is_left_as_it_was() -> None:
    handlers, disabled = list(logging.getLogger().handlers), logging.root.manager.disable
    to_onnx(make_case().functions["decoder"])
    assert (logging.getLogger().handlers, logging.root.manager.disable) == (handlers, disabled)
