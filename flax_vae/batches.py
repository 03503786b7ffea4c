"""Batches: x of any kind, the context of a conditional model, and the mask of missing values."""

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr
from jaxtyping import Array, Float, Int, UInt8

from flax_vae.pytrees import pytree
from flax_vae.system.errors import UserError


class OnDisk(ABC):
    """Images read on demand: the part of the array interface that a data set larger than memory can offer."""

    shape: tuple[Any, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The total size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, index: Any) -> np.ndarray:
        """Read the images at an integer, a slice or an array of indices into an array."""

    @abstractmethod
    def only(self, which: Any) -> "OnDisk":
        """Return the images at a mask or an array of indices, not yet read."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all images into one array."""
        return self[:]


StoredImages = UInt8[np.ndarray | OnDisk, "n h w c"]
Images = UInt8[Array | np.ndarray | OnDisk, "b h w c"] | Float[Array | np.ndarray, "b h w c"]


@pytree
class Batch:
    """The input of a model. Functions that take a batch also take x alone.

    Args:
        x: an array whose first axis is "b", or a pytree of such arrays, several views of each example. Values of
            uint8 are pixels from 0 to 255, unless the likelihood takes counts.
        context: the input "b v" of a conditional model: labels as one-hot vectors, or vectors of any meaning.
        mask: True for each value of x that was observed, False for a missing one; has the structure and shapes of x.
    """

    x: Any
    context: Any = None
    mask: Any = None


X = Any  # an array "b ...", or a pytree of such arrays
BatchLike = Any  # a Batch, or its x alone
ExampleShape = Any  # the shape of one example, or a pytree of shapes


class Support(NamedTuple):
    """The values that a distribution takes.

    Attributes:
        low, high: the least and the greatest value.
        whole: True if only whole numbers are in the support, such as counts.
    """

    low: float
    high: float
    whole: bool = False

    def __str__(self) -> str:
        """Describe the values, for error messages."""
        if self.whole:
            return f"whole numbers from {self.low:g}"
        return "uint8 from 0 to 255, or floats from 0 to 1" if self.high == 1 else "finite floats, or uint8 pixels"


_ROUNDING = 1e-5  # by which means of a likelihood may be beyond its support
REAL, UNIT, COUNTS = Support(-math.inf, math.inf), Support(0.0, 1.0), Support(0.0, math.inf, whole=True)


def supports_of(model: Any, x: X) -> Any:
    """Return the support of a model's likelihood, or of each view's; all real numbers if none is declared.

    Args:
        model: the model. A `likelihood` that is a tuple or a dictionary has an entry for each view.
        x: the batch, whose structure the result has.
    """

    def of_view(path: Any, _: Any) -> Support:
        head = getattr(model, "likelihood", None)
        with contextlib.suppress(LookupError, TypeError):  # a single likelihood for all views
            for key in path:
                head = head[getattr(key, "key", getattr(key, "idx", None))]  # type: ignore[index]
        return Support(*getattr(head, "support", REAL))

    return jax.tree.map_with_path(of_view, x)


def to_float(x: Any, support: Support = UNIT, where: str = "x") -> Float[Array, "..."]:
    """Convert an array to the floats that a model sees.

    uint8 pixels x become x / 255 in [0, 1], and bools 0 or 1. Counts keep their values. Floats are returned unchanged.

    Args:
        x: the array.
        support: the support of its likelihood.
        where: its name in messages.

    Raises:
        UserError: another dtype, such as int32 for pixels, whose scale is unknown.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if x.dtype == bool or (support.whole and jnp.issubdtype(x.dtype, jnp.integer)):
        return x.astype(jnp.float32)
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) / 255
    raise UserError(f"{where} is {x.dtype}; pass {support}.")


def refuse_outside(batch: BatchLike, model: Any) -> None:
    """Raise UserError for observed values that the likelihood of a model does not take, or contexts that do not fit.

    All finite numbers pass if the likelihood does not declare its support. NumPy arrays are checked, and JAX arrays on
    the devices that hold them, but not arrays whose values are unknown because JAX is tracing a function.
    """
    batch = to_batch(batch)
    leaves = jax.tree.leaves(batch.x)
    if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise UserError(f"x is a {type(batch.x).__name__}: pass an array, or a pytree of arrays.")
    _refuse_other_mask(batch)
    for context in jax.tree.leaves(batch.context):
        if np.ndim(context) and len(context) not in (1, len(leaves[0])):
            raise UserError(f"The context has {len(context)} rows for {len(leaves[0])} examples: pass one for each.")
    if isinstance(batch.context, np.ndarray) and not np.isfinite(batch.context).all():
        raise UserError(
            "The context is NaN or infinite for some examples, but a conditional model needs one for each: pass what "
            "only some examples have, such as a label, as a view of x with a mask."
        )
    masks = jax.tree.map(lambda _: None, batch.x) if batch.mask is None else batch.mask

    def refuse(path: Any, x: Any, support: Support, mask: Any) -> None:
        kinds = (jnp.floating, jnp.signedinteger) if support.whole else (jnp.floating,)
        is_known = not any(isinstance(array, jax.core.Tracer) for array in (x, mask))
        if is_known and isinstance(x, np.ndarray | jax.Array) and any(jnp.issubdtype(x.dtype, kind) for kind in kinds):
            _refuse_values(view_name(path), x, mask, support)

    jax.tree.map_with_path(refuse, batch.x, supports_of(model, batch.x), masks)


def view_name(path: Any) -> str:
    """Return the name of an array in messages: `x`, or `x[1]` or `x['image']` for one of several views."""
    return f"x{keystr(path)}"


def _refuse_values(where: str, x: np.ndarray | Array, mask: Any, support: Support) -> None:
    smallest, largest, has_fractions = _range(x, mask, support.whole)
    if smallest > largest:  # no value is observed
        return
    inside = support.low - _ROUNDING <= smallest and largest <= support.high + _ROUNDING
    inside = inside and math.isfinite(smallest) and math.isfinite(largest)
    if not inside:
        raise UserError(f"{where} holds {x.dtype} from {smallest:.4g} to {largest:.4g}; pass {support}.")
    if has_fractions:
        raise UserError(f"{where} holds {x.dtype} with fractions; pass {support}.")


def _range(x: np.ndarray | Array, mask: Any, whole: bool) -> tuple[Any, Any, Any]:
    """Return the smallest and the largest observed value, NaN if any is NaN, and whether any has a fraction.

    Args:
        x: an array; a JAX array that is not in host memory is reduced on its devices.
        mask: True for each observed value; None if all are.
        whole: whether to look for fractions; if not, the third result is False.
    """
    if isinstance(x, jax.Array):
        on_host = x.is_fully_addressable and all(device.platform == "cpu" for device in x.devices())
        if not on_host or x.dtype == jnp.bfloat16:  # NumPy cannot compute in bfloat16
            with jax.ensure_compile_time_eval():  # also inside a function that JAX traces
                return jax.device_get(_range_on_device(x, mask, whole))
    values = np.asarray(x) if mask is None else np.asarray(x)[np.asarray(mask)]
    if not values.size:
        return math.inf, -math.inf, False
    return values.min(), values.max(), whole and bool((values != np.floor(values)).any())


@partial(jax.jit, static_argnums=2)
def _range_on_device(x: Array, mask: Any, whole: bool) -> tuple[Array, Array, Any]:
    x, observed = x.astype(jnp.float32), True if mask is None else mask
    smallest, largest = x.min(initial=math.inf, where=observed), x.max(initial=-math.inf, where=observed)
    return smallest, largest, whole and ((x != jnp.floor(x)) & observed).any()


def _refuse_other_mask(batch: Batch) -> None:
    if batch.mask is None:
        return
    of_mask, of_x = (jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in (batch.mask, batch.x))
    if of_mask != of_x:
        raise UserError(f"`mask` must be bool and have the shape of x, which is {of_x}, not {of_mask}.")
    if other := {str(leaf.dtype) for leaf in jax.tree.leaves(batch.mask)} - {"bool"}:
        raise UserError(f"`mask` must be bool, True where x was observed, not {other.pop()}.")


def to_batch(batch: BatchLike) -> Batch:
    """Wrap x alone in a `Batch`; return a `Batch` unchanged."""
    return batch if isinstance(batch, Batch) else Batch(batch)


def unpack(batch: BatchLike, model: Any) -> tuple[Any, Any, Any]:
    """Return x as floats, with 0 for missing values; the context; and the mask. The last two may be None.

    Missing values are set to 0 before x is used: leaving them out of a sum is not enough, since the gradient of a term
    that is NaN is NaN.

    Args:
        batch: the batch.
        model: the model that takes the batch; its likelihood determines the meaning of integers.

    Raises:
        UserError: a dtype of unknown scale, or a mask that is not bool or has another shape than x.
    """
    batch = to_batch(batch)
    _refuse_other_mask(batch)

    def convert(path: Any, leaf: Any, support: Support) -> Array:
        return to_float(leaf, support, view_name(path))

    x = jax.tree.map_with_path(convert, batch.x, supports_of(model, batch.x))
    context, mask = (jax.tree.map(jnp.asarray, part) for part in (batch.context, batch.mask))
    if mask is not None:
        x = jax.tree.map(lambda leaf, observed: jnp.where(observed, leaf, 0), x, mask)
    return x, context, mask


def blank(shape: ExampleShape, lead: tuple[Any, ...] = (1,)) -> X:
    """Return examples of zeros.

    Args:
        shape: the shape of one example, such as (784,); for several views, a pytree of shapes, or of anything that has
            a shape.
        lead: the leading axes.
    """

    def zeros(view: Any) -> Array:
        return jnp.zeros((*lead, *(view.shape if hasattr(view, "shape") else view)))

    return jax.tree.map(zeros, shape, is_leaf=_is_shape)


def _is_shape(node: Any) -> bool:
    """Return True for a shape, or for anything that has a shape; False for the shapes of several views."""
    is_numbers = isinstance(node, tuple | list) and all(isinstance(size, int | np.integer) for size in node)
    return is_numbers or hasattr(node, "shape")


def are_views(x: X) -> bool:
    """Return True for a tuple or a dictionary of views, False for one array."""
    return isinstance(x, tuple | Mapping)


def example_shape(x: X) -> ExampleShape:
    """Return the shape of one example of a batch; for several views, the shape of each."""
    return jax.tree.map(lambda leaf: tuple(leaf.shape[1:]), x)


def has_views(shape: ExampleShape) -> bool:
    """Return True for the shapes of several views, False for one shape."""
    return not _is_shape(shape)


def example_size(shape: ExampleShape) -> int:
    """Return the number of values of an example, of all its views together."""
    return sum(map(math.prod, jax.tree.leaves(shape, is_leaf=_is_shape)))


def shape_text(shape: ExampleShape) -> str:
    """Describe the shape of an example: "28 x 28 x 1", "28 x 28 x 1 and 10" or "image 28 x 28 x 1 and counts 10"."""
    views = jax.tree.leaves_with_path(shape, is_leaf=_is_shape)
    names = [str(getattr(path[-1], "key", "")) if path else "" for path, _ in views]
    sizes = [" x ".join(map(str, size)) for _, size in views]
    return " and ".join(f"{name} {size}".lstrip() for name, size in zip(names, sizes, strict=True))


def batch_size_of(batch: Any) -> int:
    """Return the number of examples."""
    return len(jax.tree.leaves(batch)[0])


def take(batch: Any, which: Any) -> Any:
    """Select examples, with their contexts and masks if any, by index or slice."""
    return jax.tree.map(itemgetter(which), batch)


def as_one(item: Any) -> Any:
    """Turn a single example, or any part of it, into a batch of one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], item)


def epoch_batches(batch: BatchLike, batch_size: int, seed: int, epoch: int) -> Iterator[BatchLike]:
    """Yield the batches of one epoch of a data set.

    Args:
        batch: the data set, as one batch.
        batch_size, seed, epoch: as for `epoch_indices`.
    """
    for rows in epoch_indices(batch_size_of(batch), batch_size, seed, epoch):
        yield take(batch, rows)


def epoch_indices(num_images: int, batch_size: int, seed: int, epoch: int) -> Int[np.ndarray, "s b"]:
    """Shuffle the images for one epoch, as a function of (seed, epoch).

    The last partial batch is dropped; each epoch drops different images.

    Args:
        num_images: size of the data set.
        batch_size: images per step.
        seed: of the training.
        epoch: number of the epoch.

    Returns:
        Image indices "s b", one row per step.
    """
    steps = num_images // batch_size
    order = np.random.default_rng((seed, epoch)).permutation(num_images)
    return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)
