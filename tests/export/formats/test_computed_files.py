"""Every format of function files computes the model's functions, for every part and any number of images."""

import pytest
from exported_models import CASES, MORE_CASES, make_case

from flax_vae.export.formats import FORMATS
from flax_vae.export.function_files import FunctionFiles, largest_error, random_arguments
from flax_vae.presets import PRESETS

# test_export_functions.py checks types; checking them here would take most of the time.
pytestmark = pytest.mark.usefixtures("unchecked_types")

FILES = [files for files in (FORMATS.make(name).write for name in FORMATS) if isinstance(files, FunctionFiles)]
EVERY_PRESET = list(CASES)[: len(PRESETS)]
ONNX, OTHERS = ([files for files in FILES if (files.suffix == ".onnx") == is_onnx] for is_onnx in (True, False))
# ONNX, which lacks many operations, gets every part. The other formats get every preset, with other parts in turn.
CONTRACTS = [
    pytest.param(formats, name, id=name + suffix, marks=() if "tutorial_dense" in name else pytest.mark.slow)
    for formats, names, suffix in ((ONNX, [*CASES, *MORE_CASES], ""), (OTHERS, EVERY_PRESET, "-others"))
    for name in names
]


@pytest.mark.quick(1)
@pytest.mark.parametrize(("formats", "name"), CONTRACTS)
def test_files_compute_the_functions_of_the_model(formats: list[FunctionFiles], name: str) -> None:
    """Export sampler and log_likelihood, which contain the operations of decoder and encoder; all four for a ladder."""
    for function in make_case(**(CASES | MORE_CASES)[name]).functions.values():
        if function.name in ("sampler", "log_likelihood") or name == "conditional ladder":
            args = random_arguments(function, {"b": 4, "k": 3})
            for files in formats:
                run = files.run(files.to_bytes(function))
                assert largest_error(function, run, args) < 1e-5, function.name + files.suffix
