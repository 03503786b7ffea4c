"""What the tests share: a cache of their own, and a few real images."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

# Set before anything asks for it, so that no test reads or writes the user's cache.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="flax_vae_tests_")

from flax_vae.data.fashion_mnist import from_subset


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """64 real Fashion-MNIST images, uint8 "64 28 28 1"."""
    return from_subset("train", "for tests").images[:64]


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 600 training and 100 test images of Fashion-MNIST with labels, for trainings of seconds."""
    train, test = (from_subset(split, "for tests") for split in ("train", "test"))
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(
        path,
        x_train=train.images[:600],
        y_train=train.labels[:600],
        x_test=test.images[:100],
        y_test=test.labels[:100],
    )
    return path
