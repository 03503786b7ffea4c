"""The names that `flax_vae` exports, which are imported lazily."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flax_vae


def test_every_name_can_be_imported() -> None:
    for name in flax_vae.__all__:
        assert getattr(flax_vae, name) is not None
    assert set(flax_vae.__all__) <= set(dir(flax_vae))


def test_type_checkers_see_the_same_names() -> None:
    stub = ast.parse(Path(flax_vae.__file__).with_suffix(".pyi").read_text())
    (listed,) = (node.value for node in stub.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed)) == sorted(flax_vae.__all__)


def test_other_names_raise_errors() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = flax_vae.nothing
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from flax_vae import nothing  # noqa: F401


def test_a_star_import_leaves_the_names_of_subpackages_alone() -> None:
    assert not {"nn", "data", "models"} & set(flax_vae.__all__)


def test_no_exported_name_is_that_of_a_module() -> None:
    """Importing a module of that name, anywhere in the program, would replace the exported value."""
    modules = {path.stem for path in Path(flax_vae.__file__).parent.iterdir()}
    assert not modules & set(flax_vae.__all__)


def test_subpackages_are_attributes_without_an_import() -> None:
    program = "import flax_vae; print(flax_vae.models.VAE is flax_vae.VAE, flax_vae.plots.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "flax_vae.plots"]
