"""Fixtures for the tests of the commands: a trained run."""

from pathlib import Path

import jax
import pytest
from programs import call


@pytest.fixture(autouse=True)
def fixed_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop commands from choosing their devices: JAX has already fixed them in this process."""
    monkeypatch.setattr(jax.config, "update", lambda *_: None)


@pytest.fixture(scope="session")
def recipe(few_images: Path) -> list[object]:
    return ["--preset", "tutorial_dense", "--dataset", few_images, "--epochs", 12, "--batch-size", 50, "--seed", 3]


@pytest.fixture(scope="session")
def trained(recipe: list[object], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run made by train.py without --out, and its stdout."""
    home = tmp_path_factory.mktemp("home")
    code, out, err = call("train.py", *recipe, cwd=home)
    assert code == 0, err
    return (home / "runs" / "latest").resolve(), out
