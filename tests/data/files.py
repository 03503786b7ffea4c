"""Helpers of the data tests: random pictures, and ways to damage a file."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, shape: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def as_image(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array.squeeze())


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def cached_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def save(path: Path, array: np.ndarray, **options) -> None:
    """Write an image file, and its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    as_image(array).save(path, **options)


def save_arrays(path: Path) -> Path:
    """Write 30 random images with labels as a .npz file."""
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 3, 2), np.uint8)
    np.savez(path.with_suffix(".npz"), images=images, labels=np.arange(30) % 4)
    return path.with_suffix(".npz")
