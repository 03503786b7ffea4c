"""What the tests of the data share: where real files are, made-up pictures, and ways to damage a file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_vae.data.sources import fashion_mnist

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
SUBSET = fashion_mnist.SUBSET
NAMES = [f"{name}.gz" for files in fashion_mnist.FILES.values() for name in files]
full_set = pytest.mark.skipif(
    not all((DEBIAN / name).exists() for name in NAMES),
    reason="the full Fashion-MNIST is not here: apt-get install dataset-fashion-mnist",
)


def picture(seed: int, shape: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def as_image(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array.squeeze())


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def cached_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
