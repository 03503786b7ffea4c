"""ONNX files have signatures, and faults are reported; test_computed_files.py runs them."""

import logging
import sys

import jax
import onnx
import pytest
from exported_models import make_case

from flax_vae import UserError
from flax_vae.export.formats.onnx import run_onnx, to_onnx
from flax_vae.export.functions import Argument, ModelFunction

# test_export_functions.py checks types; checking them here would take most of the time.
pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.mark.slow
def test_a_file_describes_its_inputs_and_output() -> None:
    case = make_case(conditional=True)
    model = onnx.load_from_string(to_onnx(case.functions["log_likelihood"]))
    onnx.checker.check_model(model)
    sizes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert sizes == {"x": ["b", 5, 3, 1], "noise": ["k", "b", 3], "context": ["b", 2], "log_likelihood": ["b"]}
    assert model.graph.input[0].doc_string == "images with pixels in [0, 1]"
    assert model.graph.name == "log_likelihood"


def test_an_operation_that_onnx_lacks_is_reported_in_one_line() -> None:
    z, mean = Argument("z", ("b", 4), "latents"), Argument("mean", ("b", 7), "latents with zeros between")
    function = ModelFunction("decoder", lambda z: jax.lax.pad(z, 0.0, [(0, 0, 0), (0, 0, 1)]), (z,), mean)
    with pytest.raises(UserError, match=r"decoder cannot be converted to ONNX: .* as stablehlo instead"):
        to_onnx(function)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["jax2onnx", "onnxruntime"])
def test_a_missing_extra_is_reported_with_its_name(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function = make_case().functions["decoder"]
    content = to_onnx(function)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'flax_vae\[onnx\]'"):
        run_onnx(content) if package == "onnxruntime" else to_onnx(function)


def test_logging_is_restored() -> None:
    handlers, disabled = list(logging.getLogger().handlers), logging.root.manager.disable
    to_onnx(make_case().functions["decoder"])
    assert (logging.getLogger().handlers, logging.root.manager.disable) == (handlers, disabled)
