"""Data for a VAE: Fashion-MNIST, sprites, image sets of TensorFlow Datasets, and the user's own files."""

from flax_vae.data.examples import (
    Examples,
    as_batch,
    class_names,
    draw_binary,
    example_noun,
    examples_noun,
    is_binary,
    observed,
    one_hot,
    split_validation,
)
from flax_vae.data.load import absolute, is_own, load_images
from flax_vae.data.sources import SOURCES
from flax_vae.data.sources.in_memory import ARRAYS, from_arrays, write_arrays
from flax_vae.data.stream import Stream

__all__ = [
    "ARRAYS",
    "SOURCES",
    "Examples",
    "Stream",
    "absolute",
    "as_batch",
    "class_names",
    "draw_binary",
    "example_noun",
    "examples_noun",
    "from_arrays",
    "is_binary",
    "is_own",
    "load_images",
    "observed",
    "one_hot",
    "split_validation",
    "write_arrays",
]
