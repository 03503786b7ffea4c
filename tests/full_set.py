"""The files of Fashion-MNIST, and the mark of tests that need all of it."""

from pathlib import Path

import pytest

from flax_vae.data.sources import fashion_mnist

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SUBSET = fashion_mnist.SUBSET
NAMES = [f"{name}.gz" for files in fashion_mnist.FILES.values() for name in files]
full_set = pytest.mark.skipif(
    not all((DEBIAN / name).exists() for name in NAMES),
    reason="needs the full Fashion-MNIST: apt-get install dataset-fashion-mnist",
)
