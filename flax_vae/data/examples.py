"""The value that every source returns: examples with labels and provenance, and how to split them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8

from flax_vae.batches import (
    Batch,
    ExampleShape,
    OnDisk,
    StoredImages,
    X,
    are_views,
    batch_size_of,
    example_shape,
    take,
)
from flax_vae.data.arrays import idx_sha256, npy_sha256
from flax_vae.pytrees import by_name
from flax_vae.system.errors import UserError
from flax_vae.system.memory import require_memory

Kind = Literal["images", "vectors", "counts", "views"]
MAX_CLASSES = 10_000  # of a conditional model


@dataclass(frozen=True, eq=False)
class Examples:
    """A data set, or a split of one, as stored.

    Attributes:
        x: the examples, in memory or on disk; the first axis counts them. A tuple or a dictionary of arrays is several
            views of the same examples.
        labels: the class of each example, or None.
        mask: True for each observed value, with the structure of x; None if no value is missing.
        names: the names of the classes; empty if they have none.
        kind: "images", uint8 "n h w c"; "vectors", floats "n v"; "counts", whole numbers "n v"; or "views".
        name: the name of the set in messages.
        provenance: JSON-serialisable: `name`, `source` (a description), `number`, `shape` (of one example) and
            `sha256`, and `subset` for the bundled part of Fashion-MNIST. `sha256` is the checksum of images written as
            one IDX file, header and pixels, so it covers their shape; for Fashion-MNIST it is that of the published
            file. For vectors it is the checksum of one .npy file, for views that of the checksums of all views.
        factors: the factors that generated each example if they are known, as indices of their values.
        factor_names: the names of the columns of `factors`.
    """

    x: X
    labels: Int32[np.ndarray, " n"] | None = None
    mask: Any = None
    names: tuple[str, ...] = ()
    kind: Kind = "images"
    name: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    factors: Int32[np.ndarray, "n f"] | None = None
    factor_names: tuple[str, ...] | None = None

    @property
    def shape(self) -> ExampleShape:
        """The shape of one example; for views, the shape of each."""
        return example_shape(self.x)

    def __len__(self) -> int:
        """Return the number of examples."""
        return batch_size_of(self.x)


def make_examples(
    x: X,
    labels: np.ndarray | None,
    names: tuple[str, ...] | None,
    name: str,
    source: str,
    sha256: str | None = None,
    **more: Any,
) -> Examples:
    """Return examples with their kind and provenance. NaN in vectors and in views is a missing value.

    Args:
        x, labels, names, name: see `Examples`.
        source: a description of the origin of the examples.
        sha256: the checksum of x; computed if None.
        more: further entries of the provenance.

    Raises:
        UserError: a label is negative or exceeds int32.
    """
    if labels is not None and len(labels) and not 0 <= labels.min() <= labels.max() <= np.iinfo(np.int32).max:
        raise UserError(
            f"{name}: labels from {labels.min()} to {labels.max()}; number the classes from 0, or omit the labels."
        )
    kinds = {name: _kind_of(view) for name, view in by_name(x).items()}
    kind: Kind = kinds.get("", "views")
    provenance = {
        "name": name,
        "source": source,
        "number": batch_size_of(x),
        "shape": jax.tree.map(lambda view: list(view.shape[1:]), x),
        "sha256": sha256 or _checksum(x, kinds),
    }
    numbers = None if labels is None else labels.astype(np.int32)
    return Examples(x, numbers, observed(x), names or (), kind, name, provenance | more)


def _kind_of(x: np.ndarray | OnDisk) -> Kind:
    """Return the kind of one array."""
    return "images" if len(x.shape) == 4 else "vectors" if np.issubdtype(x.dtype, np.floating) else "counts"


def _checksum(x: X, kinds: Mapping[str, Kind]) -> str:
    """Return the SHA-256 checksum of the examples; for views, that of the checksums of all views."""
    checksums = {
        name: (idx_sha256 if kinds[name] == "images" and view.dtype == np.uint8 else npy_sha256)(np.asarray(view))
        for name, view in sorted(by_name(x).items())
    }
    return checksums[""] if "" in checksums else hashlib.sha256(json.dumps(checksums).encode()).hexdigest()


def observed(x: X) -> Any:
    """Return the mask of the values of vectors or views that are not NaN; None if no value is NaN, and for images."""
    if not are_views(x) and len(x.shape) != 2:
        return None
    mask = jax.tree.map(_is_observed, x)
    return None if all(view.all() for view in jax.tree.leaves(mask)) else mask


def _is_observed(x: np.ndarray | OnDisk) -> Bool[np.ndarray, "n ..."]:
    is_float = np.issubdtype(x.dtype, np.floating)
    return ~np.isnan(np.asarray(x)) if is_float else np.ones(x.shape, bool)


def as_batch(data: Examples, class_names: tuple[str, ...]) -> Batch:
    """Return the examples as a batch, for a conditional model with one-hot labels as contexts.

    Args:
        data: the examples.
        class_names: the classes of a conditional model; empty for other models.

    Raises:
        UserError: labels are missing, or a label is not one of the classes.
    """
    if not class_names:
        return Batch(data.x, mask=data.mask)
    if data.labels is None:
        raise UserError(f"{data.name} has no labels, which a conditional model needs.")
    low, high, classes = data.labels.min(), data.labels.max(), len(class_names)
    if low < 0 or high >= classes:
        raise UserError(f"{data.name}: labels from {low} to {high}, but the model's classes are 0 to {classes - 1}.")
    size = 4 * len(data.labels) * classes
    require_memory(size, f"{data.name}: one-hot labels of {classes:,} classes", "train without `conditional`")
    return Batch(data.x, one_hot(data.labels, classes), data.mask)


def class_names(data: Examples) -> tuple[str, ...]:
    """Return the class names of the labels, their numbers if they have no names; empty without labels.

    Raises:
        UserError: more than `MAX_CLASSES` classes, whose one-hot labels would exhaust memory.
    """
    if data.labels is None:
        return ()
    if (count := int(data.labels.max()) + 1) > MAX_CLASSES:
        raise UserError(
            f"{data.name}: labels up to {count - 1}, but a conditional model takes at most {MAX_CLASSES:,} classes; "
            "number the classes from 0 without gaps."
        )
    return data.names or tuple(map(str, range(count)))


def example_noun(kind: str) -> str:
    """Return the noun for an example of a kind, as users read it."""
    return "image" if kind == "images" else "example"


def examples_noun(kind: str) -> str:
    """Return the noun for several examples of a kind: an example of views has several of them."""
    return "examples" if kind == "views" else kind


def one_hot(labels: Int[np.ndarray, " n"] | list[int], classes: int) -> Float[np.ndarray, "n k"]:
    """Return the one-hot vector of each label."""
    return np.eye(classes, dtype=np.float32)[labels]


def draw_binary(images: StoredImages, seed: tuple[int, int]) -> UInt8[np.ndarray, "n h w c"]:
    """Binarise images once: each pixel is drawn from {0, 255}, with its grey value as the probability of 255."""
    random, blocks = np.random.default_rng(seed), np.array_split(np.asarray(images), -(-len(images) // 1000))
    return np.concatenate([np.uint8(255) * (random.random(block.shape, np.float32) * 255 < block) for block in blocks])


def is_binary(images: np.ndarray | OnDisk) -> bool:
    """Return True if all pixels of the first 1,000 images are 0 or 255, or all values of other examples are 0 or 1."""
    return bool(np.isin(images[:1000], (0, 255) if images.dtype == np.uint8 else (0, 1)).all())


def nine_to_one(number: int, split: str, where: str) -> Bool[np.ndarray, " n"]:
    """Return the mask of a split, for a set without splits.

    A fixed permutation, independent of the run's seed, holds out a tenth of the examples, at least one.

    Args:
        number: the number of examples.
        split: "train" or "test".
        where: the name of the set in error messages.

    Raises:
        UserError: fewer than two examples.
    """
    if number < 2:
        raise UserError(f"{where}: a single example; save at least two, for training and for testing.")
    held_out = _held_out(number, max(1, number // 10))
    return held_out if split == "test" else ~held_out


def _held_out(number: int, count: int) -> Bool[np.ndarray, " n"]:
    """Return a mask of `count` held-out examples, by a fixed permutation."""
    held_out = np.zeros(number, bool)
    held_out[np.random.default_rng(0).permutation(number)[:count]] = True
    return held_out


def split_validation(data: Examples, share: float) -> tuple[Examples, Examples]:
    """Split off a share of the training set; the split does not depend on the run's seed.

    Returns:
        The remaining training set, and the validation set.

    Raises:
        UserError: one side would be empty.
    """
    count = round(share * len(data))
    if not 0 < count < len(data):
        raise UserError(
            f"`validation` {share:g} leaves one part of {len(data):,} {examples_noun(data.kind)} empty: change it."
        )
    held_out = _held_out(len(data), count)

    def part(mask: Bool[np.ndarray, " n"]) -> Examples:
        labels, observed, factors = take((data.labels, data.mask, data.factors), mask)
        x = data.x.only(mask) if isinstance(data.x, OnDisk) else take(data.x, mask)
        return replace(data, x=x, labels=labels, mask=observed, factors=factors)

    return part(~held_out), part(held_out)
