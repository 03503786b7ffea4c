"""Checkpoints on disk, by Orbax: the last ones, and the one with the best test loss. Arrays only, nothing executable.

Which one is the best stands in the run's `metrics.jsonl` alone, so that no second record can contradict it. With each
checkpoint goes a sum of its arrays, since Orbax reads a flipped bit without a word.
"""

import functools
import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr

from flax_vae.system.errors import UserError
from flax_vae.system.processes import is_process_loss, sum_over_processes

_SUMS = "sums"  # an item of each checkpoint, beside those of arrays


class Damaged(UserError):
    """A checkpoint that cannot be read, or whose arrays are not those that were saved."""


@contextmanager
def open_checkpoints(directory: Path, keep: int = 2, best: Callable[[], int | None] = lambda: None) -> Iterator[Any]:
    """Orbax's manager of a run's checkpoints; at the end all are written.

    Args:
        directory: the folder of the checkpoints.
        keep: how many of the last ones stay.
        best: the step of one that stays as well, asked whenever one is written.

    Raises:
        UserError: one cannot be written.
    """
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

    class Best:
        def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
            step = best()
            return [info.step == step for info in checkpoints]

    ocp = _orbax()

    class Manager(ocp.CheckpointManager):  # type: ignore[misc]
        def reached_preemption(self, step: int) -> bool:
            return False  # the training loop answers signals, so JAX's service for that is off

    options = ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy([LatestN(keep), Best()]),
        # By its name processes tell apart where they wait for each other, for one member of an ensemble or another.
        multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=directory.parent.name),
    )
    with _writing(directory):
        manager = Manager(directory.absolute(), options=options)
    try:
        yield manager
    except BaseException as error:
        if not is_process_loss(error):  # to close would wait for other processes
            with suppress(Exception):  # that of the block says more
                manager.close()
        raise
    with _writing(directory):
        manager.close()


def save(manager: Any, step: int, items: Mapping[str, Any]) -> None:
    """Begin to write one pytree of arrays per item, and their sums; atomic: a kill leaves the checkpoint before it.

    Raises:
        UserError: this one, or one before it, cannot be written.
    """
    ocp = _orbax()
    saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    sums = {name: sum_over_processes(sum_of(tree)) for name, tree in items.items()}
    with _writing(manager.directory):
        manager.save(step, args=ocp.args.Composite(**saved, **{_SUMS: ocp.args.JsonSave(sums)}))


def finish(manager: Any) -> None:
    """Wait until all checkpoints are written.

    Raises:
        UserError: one cannot be.
    """
    with _writing(manager.directory):
        manager.wait_until_finished()


@contextmanager
def _writing(directory: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # TensorStore has no type of its own for a full disk
        if is_process_loss(error):
            raise
        raise UserError(
            f"{directory}: a checkpoint cannot be written: {_reason(error)}. Those before it are whole: mend that, and "
            f"go on by flax-vae train --resume {Path(directory).parent}."
        ) from error


def saved_steps(directory: Path) -> list[int]:
    """The steps that there are checkpoints of, in ascending order."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def forget_after(directory: Path, step: int) -> None:
    """Delete the checkpoints that are later than a step."""
    for later in saved_steps(directory):
        if later > step:
            shutil.rmtree(directory / str(later))


def set_aside(directory: Path, step: int) -> Path:
    """Give a damaged checkpoint a name that nothing reads."""
    return (directory / str(step)).rename(free_name(directory / f"{step}.damaged"))


def clear_unfinished(directory: Path) -> None:
    """Delete what a kill or a full disk left of a checkpoint."""
    for path in directory.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(path, ignore_errors=True)


def free_name(path: Path) -> Path:
    """The path, with a number where there is something already."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(free for free in chain([path], numbered) if not free.exists())


def restore(directory: Path, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
    """Read items of a step onto a device of this process; `items` gives their trees as shapes and dtypes.

    Where there are several processes, all of them call this.

    Raises:
        Damaged: the checkpoint.
        UserError: it is of another model.
    """
    ocp = _orbax()
    path, several = directory / str(step), jax.process_count() > 1
    here: Any = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding = jax.NamedSharding(jax.make_mesh((jax.device_count(),), ("all",)), jax.P()) if several else here

    def target(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    wanted = {name: ocp.args.StandardRestore(jax.tree.map(target, tree)) for name, tree in items.items()}
    try:
        name, tree = next(iter(items.items()))  # the parameters
        stored = named(ocp.StandardCheckpointHandler().metadata(path.absolute() / name).tree)
        try:
            check_shapes(stored, named(tree))
        except ValueError as error:
            raise UserError(f"checkpoint {path} is of another model: {error}.") from None
        # This one alone: a manager would look at all of them, which may come and go beside a training.
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            args = ocp.args.Composite(**wanted, **{_SUMS: ocp.args.JsonRestore()})
            found = dict(reader.restore(path.absolute(), args=args))
        sums = found.pop(_SUMS)
        if several:
            found = jax.device_put(jax.device_get(found), here)
        for name, tree in found.items():
            if sum_of(tree) != sums[name]:
                raise ValueError(f"{name} is not what was saved, by its sum")
        return found
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes Orbax raise
        if is_process_loss(error):
            raise
        raise Damaged(f"checkpoint {path} is damaged: {_reason(error)}.") from error


def sum_of(tree: Any) -> list[int]:
    """Two sums of 64 bits that change with any bit of any array, however devices share the arrays.

    As of Fletcher (1982): Σ xᵢ and Σ (2i + 1) xᵢ, of the bits of each number as a whole number xᵢ and its place i.
    """
    plain, placed, begin = 0, 0, 0
    for leaf in jax.tree.leaves(tree):
        steps = [int(np.prod(leaf.shape[axis + 1 :])) for axis in range(np.ndim(leaf))]
        for index, part in _parts(leaf):
            bits = np.ascontiguousarray(part).view(f"u{part.dtype.itemsize}").reshape(part.shape)
            axes = zip(leaf.shape, index, steps, strict=True)
            places = [np.uint64(step) * np.arange(*some.indices(size), dtype=np.uint64) for size, some, step in axes]
            some, of_places = _moments(bits, places)
            plain, placed = plain + some, placed + 2 * (of_places + begin * some) + some
        begin += int(np.prod(leaf.shape))
    return [plain % 2**64, placed % 2**64]


def _moments(x: np.ndarray, places: list[np.ndarray]) -> tuple[int, int]:
    """Σ x and Σ place · x mod 2⁶⁴, where a place is a sum of one number for each axis: one axis at a time."""
    if not places:
        return int(x), 0
    first = (x.reshape(len(x), -1).sum(1, dtype=np.uint64) * places[0]).sum(dtype=np.uint64)
    plain, rest = _moments(np.asarray(x.sum(0, dtype=np.uint64)), places[1:])
    return plain, int(first) + rest


def _parts(leaf: Any) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Each number of an array once, in parts, and where these are in the whole."""
    if isinstance(leaf, jax.Array):
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                yield shard.index, np.asarray(shard.data)
    else:
        yield (slice(None),) * np.ndim(leaf), np.asarray(leaf)


def _reason(error: Exception) -> str:
    """The error of the system, where there is one, else the first words of what Orbax says."""
    of_system = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(of_system[1])) if of_system else textwrap.shorten(str(error) or repr(error), 200)


def names(tree: Any) -> Any:
    """The tree with the name of each array, such as "encoder.Dense_0.kernel", in its place."""
    return jax.tree_util.tree_map_with_path(lambda path, _: keystr(path, simple=True, separator="."), tree)


def named(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their names."""
    return dict(zip(jax.tree.leaves(names(tree)), jax.tree.leaves(tree), strict=True))


def check_shapes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ValueError at the first array that is not stored in the shape that the model wants."""
    for name, leaf in wanted.items():
        found = tuple(stored[name].shape) if name in stored else "nothing"
        if found != tuple(leaf.shape):
            raise ValueError(f"{name} is stored as {found}, the model wants {tuple(leaf.shape)}")


@functools.cache
def _orbax() -> Any:
    """Orbax, which takes over a second to import: only those who save or load pay.

    What goes wrong in its threads is raised where they are waited for. That they say it as well, and stumble over what
    is left of work that is given up, would only hide the one line that matters.
    """
    import orbax.checkpoint

    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        of_orbax = "orbax" in getattr(getattr(unraisable.object, "cr_code", None), "co_filename", "")
        if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Task exception was "))
    return orbax.checkpoint
