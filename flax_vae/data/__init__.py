"""Data for a VAE: Fashion-MNIST, sprites, image sets of TensorFlow Datasets, and the user's own files."""

from flax_vae.data.examples import (
    Examples,
    as_batch,
    class_names,
    draw_binary,
    example_noun,
    is_binary,
    observed,
    one_hot,
    split_validation,
)
from flax_vae.data.load import absolute, load_images
from flax_vae.data.sources import SOURCES
from flax_vae.data.sources.in_memory import ARRAYS, from_arrays, write_arrays

__all__ = [
    "ARRAYS",
    "SOURCES",
    "Examples",
    "absolute",
    "as_batch",
    "class_names",
    "draw_binary",
    "example_noun",
    "from_arrays",
    "is_binary",
    "load_images",
    "observed",
    "one_hot",
    "split_validation",
    "write_arrays",
]
