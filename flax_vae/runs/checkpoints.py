"""Checkpoints on disk, by Orbax: the last ones, and the one with the best test loss. Arrays only, nothing executable.

Only the run's `metrics.jsonl` says which one is best, so that no second record can contradict it. Each checkpoint
carries checksums of its arrays: see `checksums`.
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
from types import SimpleNamespace
from typing import Any

import jax

from flax_vae.models.binding import join_objective, split_objective
from flax_vae.pytrees import flatten_by_name
from flax_vae.system.checksums import checksum
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.processes import is_process_loss, sum_over_processes

_TRAINING = "optimizer"  # the item of the optimiser's state and of the objective's metrics
_CHECKSUMS, _STREAM = "sums", "stream"  # items of a checkpoint besides the trees of arrays


class Damaged(UserError):
    """A checkpoint is unreadable, or its arrays differ from those that were saved."""


@contextmanager
def open_checkpoints(directory: Path, keep: int = 2, best: Callable[[], int | None] = lambda: None) -> Iterator[Any]:
    """Open Orbax's manager of a run's checkpoints; on exit all of them are written.

    Args:
        directory: the folder of the checkpoints.
        keep: number of last checkpoints to keep.
        best: returns the step of one more to keep; called whenever a checkpoint is written.

    Raises:
        OSError: a checkpoint cannot be written.
    """
    with _writing(directory):
        manager = _new_manager(directory, keep, best)
    try:
        yield manager
    except BaseException as error:
        if not is_process_loss(error):  # closing would wait for the dead process
            with suppress(Exception):  # the block's exception says more
                manager.close()
        raise
    with _writing(directory):
        manager.close()


def _new_manager(directory: Path, keep: int, best: Callable[[], int | None]) -> Any:
    ocp = _orbax()
    policies = ocp.checkpoint_managers

    def preserve_best(checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        step = best()
        return [info.step == step for info in checkpoints]

    options = ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(keep), SimpleNamespace(should_preserve=preserve_best)]
        ),
        # Names the barriers of this member, which processes would otherwise confuse with another member's.
        multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=directory.parent.name),
    )
    manager = ocp.CheckpointManager(directory.absolute(), options=options)
    manager.reached_preemption = lambda step: False  # the training loop answers signals instead of JAX's service
    return manager


def save(manager: Any, step: int, items: Mapping[str, Any], stream: str | None = None) -> None:
    """Start writing one pytree of arrays per item, with checksums. Atomic: after a kill the previous one remains.

    Args:
        manager: the manager of the checkpoints.
        step: the step of the checkpoint.
        items: the trees.
        stream: the state of the stream of training batches, or None.

    Raises:
        OSError: this checkpoint, or an earlier one, cannot be written.
    """
    ocp = _orbax()
    trees = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    checksums = {name: sum_over_processes(checksum(tree)) for name, tree in items.items()}
    texts = {_CHECKSUMS: ocp.args.JsonSave(checksums)}
    if stream is not None:
        texts[_STREAM] = ocp.args.JsonSave({"state": stream})
    with _writing(manager.directory):
        manager.save(step, args=ocp.args.Composite(**trees, **texts))


def finish(manager: Any) -> None:
    """Wait until all checkpoints are written.

    Raises:
        OSError: a checkpoint cannot be written.
    """
    with _writing(manager.directory):
        manager.wait_until_finished()


@contextmanager
def _writing(directory: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # TensorStore has no exception type for a full disk
        if is_process_loss(error):
            raise
        raise OSError(0, f"cannot write a checkpoint: {_reason(error)}", str(directory)) from error


def saved_steps(directory: Path) -> list[int]:
    """Return the steps that have a checkpoint, in ascending order."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def forget_after(directory: Path, step: int) -> None:
    """Delete the checkpoints of later steps."""
    for later in saved_steps(directory):
        if later > step:
            shutil.rmtree(directory / str(later))


def set_aside(directory: Path, step: int, damaged: Damaged) -> None:
    """Rename a damaged checkpoint, so that nothing reads it, and warn."""
    aside = (directory / str(step)).rename(_free_name(directory / f"{step}.damaged"))
    log(f"WARNING: {damaged} It was renamed to {aside.name}; training continues from the previous one.")


def clear_unfinished(directory: Path) -> None:
    """Delete incomplete checkpoints, which a kill or a full disk leaves behind."""
    for path in directory.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _free_name(path: Path) -> Path:
    """Return the path, with a number appended if it exists."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(free for free in chain([path], numbered) if not free.exists())


def restore(directory: Path, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
    """Read items of a step onto a device of this process. Every process must call this.

    Args:
        directory: the folder of the checkpoints.
        step: the step of the checkpoint.
        items: the trees to read, as shapes and dtypes. The first one holds parameters, to which those of an objective
            are added if there are any.

    Raises:
        Damaged: the checkpoint is damaged.
        UserError: the checkpoint belongs to another model, or to another optimiser or objective.
    """
    ocp = _orbax()
    path, is_distributed = directory / str(step), jax.process_count() > 1
    local: Any = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    sharding = jax.NamedSharding(jax.make_mesh((jax.device_count(),), ("all",)), jax.P()) if is_distributed else local
    try:
        handler, targets = ocp.StandardCheckpointHandler(), {}
        for number, (name, tree) in enumerate(items.items()):
            stored = handler.metadata(path.absolute() / name).tree
            if number == 0 and not split_objective(tree)[1]:
                tree = join_objective(tree, split_objective(stored)[1])
            owner = "training" if name == _TRAINING else "model"
            refuse_other_model(f"checkpoint {path}", flatten_by_name(stored), flatten_by_name(tree), owner)
            sharded = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
            targets[name] = ocp.args.StandardRestore(sharded)
        # Only this one: a manager would inspect all checkpoints, which a concurrent training may replace.
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            args = ocp.args.Composite(**targets, **{_CHECKSUMS: ocp.args.JsonRestore()})
            restored = dict(reader.restore(path.absolute(), args=args))
        checksums = restored.pop(_CHECKSUMS)
        if is_distributed:
            restored = jax.device_put(jax.device_get(restored), local)
        for name, tree in restored.items():
            if checksum(tree) != checksums[name]:
                raise ValueError(f"{name} does not have the checksum with which it was saved")
        return restored
    except Exception as error:  # Orbax may raise anything over a damaged file
        if isinstance(error, UserError) or is_process_loss(error):
            raise
        raise Damaged(f"checkpoint {path} is damaged: {_reason(error)}.") from error


def stream_state(directory: Path, step: int) -> str:
    """Read the state of the stream of training batches from a checkpoint.

    Raises:
        UserError: the checkpoint has no such state, or it is damaged.
    """
    ocp, path = _orbax(), directory / str(step)
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            restored = reader.restore(path.absolute(), args=ocp.args.Composite(**{_STREAM: ocp.args.JsonRestore()}))
        return str(restored[_STREAM]["state"])
    except Exception as error:  # Orbax may raise anything over a damaged file
        raise UserError(
            f"checkpoint {path} has no readable state of its stream ({_reason(error)}): start from the run by "
            "fit(init=run)."
        ) from None


def _reason(error: Exception) -> str:
    """Return the operating system's error if there is one, else the beginning of Orbax's message."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else textwrap.shorten(str(error) or repr(error), 200)


def refuse_other_model(
    where: str, stored: Mapping[str, Any], expected: Mapping[str, Any], owner: str = "model"
) -> None:
    """Raise UserError if the names or the shapes of stored arrays are not those that their owner expects."""
    for name in {**expected, **stored}:
        found, wanted = (tuple(tree[name].shape) if name in tree else None for tree in (stored, expected))
        if found != wanted:
            stored_as = "is not stored; the" if found is None else f"is stored as {found}, but the"
            expects = f"{owner} " + ("does not have it" if wanted is None else f"expects {wanted}")
            raise UserError(f"{where} belongs to another {owner}: {name} {stored_as} {expects}.")


@functools.cache
def _orbax() -> Any:
    """Import Orbax lazily: it takes over a second.

    Errors in its threads are re-raised where the threads are awaited. Their own messages, and complaints about
    abandoned work, would only hide the one line that matters.
    """
    import orbax.checkpoint

    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        is_orbax = "orbax" in getattr(getattr(unraisable.object, "cr_code", None), "co_filename", "")
        if not is_orbax and str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    abandoned = ("Task exception was ", "unhandled exception during asyncio.run()")
    logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith(abandoned))
    return orbax.checkpoint
