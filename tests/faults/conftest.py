"""A small training, whose run directory comes to harm."""

import shutil
from pathlib import Path

import pytest

from flax_vae import Config, Run, fit


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(preset="tutorial_dense", dataset=str(few_images), epochs=3, batch_size=50, learning_rate=3e-3)


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One that was never disturbed: checkpoints of steps 24 and 36."""
    return fit(config, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """Its directory, to do harm to."""
    return shutil.copytree(run.directory, tmp_path / "copy")
