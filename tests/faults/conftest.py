"""A small training, whose run directory the tests damage."""

from pathlib import Path

import pytest

from flax_vae import Config


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    """A training of three epochs, which ends with checkpoints of steps 24 and 36."""
    return Config(preset="tutorial_dense", dataset=str(few_images), epochs=3, batch_size=50, learning_rate=3e-3)
