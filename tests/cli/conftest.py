"""Fixtures for the tests of the commands: a trained run."""

import io
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path

import jax
import pytest

from flax_vae.cli.train import train


@contextmanager
def _fixed_devices() -> Iterator[None]:
    """Stop commands from choosing their devices: JAX has already fixed them in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.config, "update", lambda *_: None)
        yield


@pytest.fixture(autouse=True)
def fixed_devices() -> Iterator[None]:
    with _fixed_devices():
        yield


@pytest.fixture(scope="session")
def recipe(few_images: Path) -> list[object]:
    return ["--preset", "tutorial_dense", "--dataset", few_images, "--epochs", 12, "--batch-size", 50, "--seed", 3]


@pytest.fixture(scope="session")
def trained(recipe: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run made by `train` without --out and without pictures, and its stdout."""
    home, out = tmp_path_factory.mktemp("home"), io.StringIO()
    with chdir(home), redirect_stdout(out), _fixed_devices(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        assert train(list(map(str, recipe))) == 0
    return (home / "runs" / "latest").resolve(), out.getvalue()
