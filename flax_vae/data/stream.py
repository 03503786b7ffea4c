"""Training batches from an iterable, a generator function or a Grain data set."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from flax_vae.batches import Batch, are_views, batch_size_of, example_shape, to_batch
from flax_vae.data.examples import Examples, make_examples
from flax_vae.data.sources.in_memory import all_examples
from flax_vae.data.values import read_values, with_gaps
from flax_vae.pytrees import flatten_by_name
from flax_vae.system.console import log_once
from flax_vae.system.errors import UserError

_WHERE = "`data`"
_NOT_STREAMS = (str, Path, tuple, Mapping, Batch, Examples)
_MOST_STEPS = 2**31  # an endless Grain data set reports a greater length


@dataclass(frozen=True, eq=False)
class Stream:
    """Batches to train on, in place of arrays in memory.

        fit(data=Stream(dataset, steps_per_epoch=1000, held_out=images))

    Attributes:
        batches: an iterable of batches, such as a Grain data set, or a function without arguments that returns one. It
            is iterated over again whenever it ends. A batch is x, or a `Batch` with x, the labels as one-hot vectors
            "b k" if the model is conditional, and the mask of the observed values if some are missing. All batches have
            the same shapes; one with fewer examples, such as the last, is left out.
        steps_per_epoch: the number of batches in an epoch; by default the length of `batches`.
        held_out: examples in memory, as for `fit`, which choose the best checkpoint and are evaluated; or None. For a
            conditional model they are `Examples` whose labels are column numbers of the one-hot vectors.
    """

    batches: Iterable[Any] | Callable[[], Iterable[Any]]
    steps_per_epoch: int | None = None
    held_out: Any = None


def as_stream(data: Any) -> Stream | None:
    """Return `data` as a `Stream`; None for arrays, views and examples in memory."""
    if isinstance(data, Stream):
        return data
    if isinstance(data, _NOT_STREAMS) or hasattr(data, "__array__"):
        return None
    if isinstance(data, list):
        return Stream(data) if data and isinstance(data[0], Batch) else None
    return Stream(data) if callable(data) or hasattr(data, "__iter__") else None


class Feed:
    """The batches of a stream in order, all with the shapes and types of the first.

    Attributes:
        first: the first batch.
        steps_per_epoch: the number of batches in an epoch.
        examples: the first batch as training examples, which represents the stream in the run directory.
        held_out: the held-out examples, or None.
        class_names: the class numbers as text, if the stream has labels; otherwise empty.
        is_resumable: True if the iterator has a state that can be saved, as Grain's iterators have.
    """

    def __init__(self, stream: Stream) -> None:
        """Start the stream and read its first batch.

        Raises:
            UserError: the stream holds no batches, or has neither a length nor `steps_per_epoch`; or it has labels, but
                the classes of the held-out examples have names, whose order is unknown.
        """
        self._stream, self._count = stream, 0
        self.steps_per_epoch = _steps_per_epoch(stream)
        self._iterator = self._start()
        self.is_resumable = hasattr(self._iterator, "get_state") and hasattr(self._iterator, "set_state")
        item = next(self._iterator, None)
        if item is None:
            raise UserError(f"{_WHERE} is a stream without batches: pass a new iterator, or a function that makes one.")
        self.first = jax.tree.map(np.array, _read(item))  # a copy, since a generator may reuse its buffer
        self._pending: Batch | None = self.first
        self.examples = self._describe(self.first)
        self.held_out = None if stream.held_out is None else all_examples(stream.held_out)
        self.class_names = () if self.first.context is None else tuple(map(str, range(self.first.context.shape[1])))
        if self.class_names and self.held_out is not None and self.held_out.names:
            raise UserError(
                f"{_WHERE}: the held-out labels are names; pass column numbers of the batches' one-hot vectors instead."
            )

    @property
    def kind(self) -> str:
        """The name of the function, or of the iterable's type, for messages."""
        return getattr(self._stream.batches, "__name__", type(self._stream.batches).__name__)

    def __next__(self) -> Batch:
        """Return the next batch; at the end of the stream, start it again.

        Raises:
            UserError: the stream cannot be started again, or a batch has another shape or type than the first.
        """
        if self._pending is not None:
            batch, self._pending = self._pending, None
            self._count += 1
            return batch
        for _ in range(2):
            for item in self._iterator:
                batch = _read(item)
                if self._fits(batch):
                    self._count += 1
                    return batch
            self._iterator = self._start()
        raise UserError(
            f"{_WHERE} ended after {self._count:,} batches, and a second iteration yields none: pass a function that "
            "returns a new iterator."
        )

    def state(self) -> str | None:
        """Return the state of the iterator after the last batch as a string; None if it has none."""
        if not self.is_resumable:
            return None
        state = self._iterator.get_state()  # type: ignore[attr-defined]
        if isinstance(state, bytes):
            return json.dumps({"bytes": base64.b64encode(state).decode()})
        return json.dumps({"state": state}, default=int)

    def restore(self, state: str) -> None:
        """Set the iterator to a state that `state` returned."""
        content = json.loads(state)
        value = base64.b64decode(content["bytes"]) if "bytes" in content else content["state"]
        self._iterator.set_state(value)  # type: ignore[attr-defined]
        self._pending = None

    def _start(self) -> Iterator[Any]:
        batches = self._stream.batches
        batches = batches() if callable(batches) else batches
        if not hasattr(batches, "__iter__"):
            raise UserError(
                f"{_WHERE} is a function that returned a {type(batches).__name__}: return an iterable of batches."
            )
        return iter(batches)

    def _fits(self, batch: Batch) -> bool:
        """Return True for a batch with the shapes and types of the first, False for one with fewer examples.

        Raises:
            UserError: the batch has more examples, or other shapes or types.
        """
        first = self.first
        same = _types(batch) == _types(first)
        count, size = batch_size_of(batch), batch_size_of(first)
        if not same or count > size:
            raise UserError(
                f"{_WHERE}: a batch has {count} examples of {_described(batch)}, but the first has {size} of "
                f"{_described(first)}; yield batches of the same shapes and types."
            )
        if count < size:
            log_once(f"{_WHERE}: batches of fewer than {size} examples are left out.")
        return count == size

    def _describe(self, batch: Batch) -> Examples:
        """Return a batch as examples, with its values read like those of arrays in memory."""
        has_gaps = batch.mask is not None and (are_views(batch.x) or batch.x.ndim == 2)  # images alone have no gaps
        x = jax.tree.map(with_gaps, batch.x, batch.mask) if has_gaps else batch.x
        read = read_values(x, x, "The first batch of `data`")
        for raw, view in zip(jax.tree.leaves(batch.x), jax.tree.leaves(read), strict=True):
            if raw.dtype == np.uint8 == view.dtype and (raw != view).any():
                raise UserError(f"{_WHERE}: uint8 pixels are 0 and 1 only; multiply them by 255, or pass booleans.")
        labels = None if batch.context is None else batch.context.argmax(1)
        examples = make_examples(read, labels, None, "data", f"batches of {self.kind}")
        return replace(examples, mask=batch.mask)


def _steps_per_epoch(stream: Stream) -> int:
    steps = stream.steps_per_epoch
    if steps is None and hasattr(stream.batches, "__len__"):
        steps = len(stream.batches)  # type: ignore[arg-type]
    if steps is None or not 0 < steps < _MOST_STEPS:
        found = "has no length" if steps is None else f"has {steps} steps in an epoch"
        raise UserError(
            f"{_WHERE} {found}: pass the number of batches in an epoch, data=Stream(batches, steps_per_epoch=1000)."
        )
    return steps


def _read(item: Any) -> Batch:
    """Return a batch as NumPy arrays: floats as float32, integers other than uint8 as int32.

    Raises:
        UserError: the item is not a batch of images or vectors, or its contexts are not labels.
    """
    batch = to_batch(item)
    leaves = jax.tree.leaves(batch.x) if are_views(batch.x) else [batch.x]
    if isinstance(batch.x, list) or not leaves or any(np.ndim(leaf) not in (2, 4) for leaf in leaves):
        shapes = ", ".join(str(np.shape(leaf)) for leaf in leaves)
        kind = f"a {type(batch.x).__name__}" if isinstance(batch.x, list) or not leaves else f"of shape {shapes}"
        raise UserError(
            f"{_WHERE}: a batch is {kind}; pass an array (b, h, w, c) or (b, v), a tuple or a dictionary of views, or "
            "a Batch."
        )
    context = None if batch.context is None else _read_labels(batch.context, batch_size_of(leaves))
    return Batch(jax.tree.map(_read_array, batch.x), context, jax.tree.map(np.asarray, batch.mask))


def _read_labels(context: Any, count: int) -> Float[np.ndarray, "b k"]:
    """Return the contexts of a batch, which have to be labels, since a run names and numbers its classes.

    Raises:
        UserError: the contexts are not a one-hot vector for each example.
    """
    vectors = np.asarray(context)
    is_one_hot = vectors.ndim == 2 and np.isin(vectors, (0, 1)).all() and (vectors.sum(1) == 1).all()
    if not is_one_hot or len(vectors) != count:
        raise UserError(
            f"{_WHERE}: a batch of {count} examples has a context of shape {vectors.shape}; pass the labels as "
            "one-hot vectors (b, classes)."
        )
    return vectors.astype(np.float32)


def _read_array(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    kinds = {"f": np.float32, "u": np.int32, "i": np.int32}
    return array if array.dtype in (np.uint8, bool) else array.astype(kinds.get(array.dtype.kind, array.dtype))


def _types(batch: Batch) -> Any:
    """Return the dtype of each array of a batch and the shape of one example in it, by name."""
    return {name: (leaf.dtype, leaf.shape[1:]) for name, leaf in flatten_by_name(batch).items()}


def _described(batch: Batch) -> str:
    labels = "" if batch.context is None else f" with labels of {batch.context.shape[1]} classes"
    mask = "" if batch.mask is None else " with a mask"
    dtypes = ", ".join(str(leaf.dtype) for leaf in jax.tree.leaves(batch.x))
    return f"{example_shape(batch.x)}, {dtypes}{labels}{mask}"
