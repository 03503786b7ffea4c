"""Checkpoints on disk: the last ones, and the one with the best test loss. Arrays only, nothing executable.

A checkpoint is a folder named after its step. It has a .safetensors file for each tree of arrays, and checkpoint.json
with the SHA-256 checksums of these files. Only the run's `metrics.jsonl` says which checkpoint is best, so that no
second record can contradict it.
"""

import json
import os
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from itertools import chain, count
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax.traverse_util import unflatten_dict
from safetensors import SafetensorError

from flax_vae.models.binding import OF_OBJECTIVE, join_objective, split_objective
from flax_vae.pytrees import flatten_by_name, names_tree
from flax_vae.runs import orbax
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.processes import (
    gather,
    is_first_process,
    is_process_loss,
    maximum_over_processes,
    run_in_first_process,
)

Arrays = dict[str, np.ndarray]  # of a tree, by their names
_TRAINING = "optimizer"  # the item of the optimiser's state and of the objective's metrics
_DESCRIPTION, _SUFFIX, _UNFINISHED = "checkpoint.json", ".safetensors", ".tmp"


class Damaged(UserError):
    """A checkpoint is unreadable, or its arrays differ from those that were saved."""


class Checkpoints:
    """The checkpoints of a training. The first process writes them, in a thread, while the training continues.

    Every process must call the same methods.

    Attributes:
        directory: their folder.
        latest_step: the step of the last one, which may still be being written, or None.
    """

    def __init__(self, directory: Path, keep: int, best: Callable[[], int | None]) -> None:
        """Create the folder; arguments as for `open_checkpoints`."""
        self.directory, self._keep, self._best = directory, keep, best
        if is_first_process():
            directory.mkdir(exist_ok=True)
        latest = maximum_over_processes(max(saved_steps(directory), default=-1))
        self.latest_step = None if latest < 0 else latest
        self._writer, self._unfinished = ThreadPoolExecutor(1), Future[None]()
        self._unfinished.set_result(None)

    def save(self, step: int, items: Mapping[str, Any], stream: str | None = None) -> None:
        """Start writing a checkpoint. Atomic: after a kill the previous one remains.

        Args:
            step: the step.
            items: its trees of arrays, which must not be donated before `finish`.
            stream: the state of the stream of training batches, or None.

        Raises:
            OSError: an earlier checkpoint cannot be written.
        """
        self.finish()
        trees = {name: _on_host(tree) for name, tree in items.items()}
        if is_first_process():
            self._unfinished = self._writer.submit(self._write, step, trees, stream)
        self.latest_step = step

    def finish(self) -> None:
        """Wait until all checkpoints are written.

        Raises:
            OSError: one cannot be written.
            UserError: in the other processes, if one cannot be written.
        """
        run_in_first_process(self._unfinished.result)

    def close(self) -> None:
        """Wait in this process, whatever the others do, and ignore errors."""
        with suppress(Exception):
            self._unfinished.result()

    def _write(self, step: int, trees: Mapping[str, Arrays], stream: str | None) -> None:
        folder, checksums = self.directory / f"{step}{_UNFINISHED}", {}
        try:
            folder.mkdir()
            for name, arrays in trees.items():
                path = folder / f"{name}{_SUFFIX}"
                safetensors.numpy.save_file(arrays, path)
                with path.open("rb") as file:
                    checksums[path.name] = file_digest(file, "sha256").hexdigest()
            (folder / _DESCRIPTION).write_text(json.dumps({"sha256": checksums, "stream": stream}))
            folder.rename(self.directory / str(step))
            self._forget_old()
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(0, f"cannot write a checkpoint: {_reason(error)}", str(self.directory)) from error

    def _forget_old(self) -> None:
        """Delete all but the last checkpoints and the best one."""
        for step in {*saved_steps(self.directory)[: -self._keep]} - {self._best()}:
            _delete(self.directory / str(step))


@contextmanager
def open_checkpoints(
    directory: Path, keep: int = 2, best: Callable[[], int | None] = lambda: None
) -> Iterator[Checkpoints]:
    """Open a run's checkpoints for writing; at the end all of them are written.

    Args:
        directory: the folder of the checkpoints.
        keep: number of last checkpoints to keep.
        best: returns the step of one more to keep; called whenever a checkpoint is written.

    Raises:
        OSError: a checkpoint cannot be written.
    """
    checkpoints = Checkpoints(directory, keep, best)
    try:
        yield checkpoints
    except BaseException:
        checkpoints.close()  # the block's exception says more
        raise
    checkpoints.finish()


def _on_host(tree: Any) -> Arrays:
    """Copy the arrays of a tree to the host. safetensors stores types that NumPy does not have as unsigned integers."""
    arrays = flatten_by_name(jax.device_get(jax.tree.map(gather, tree)))
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return {name: array.view(f"u{array.itemsize}") if _is_foreign(array) else array for name, array in arrays.items()}


def _is_foreign(array: Any) -> bool:
    return np.dtype(array.dtype).kind == "V"


def saved_steps(directory: Path) -> list[int]:
    """Return the steps that have a checkpoint, in ascending order."""
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def forget_after(directory: Path, step: int) -> None:
    """Delete the checkpoints of later steps."""
    for later in saved_steps(directory):
        if later > step:
            _delete(directory / str(later))


def _delete(checkpoint: Path) -> None:
    """Delete a checkpoint; after a kill it is still complete, or recognised as incomplete."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}{_UNFINISHED}")))


def set_aside(directory: Path, step: int, damaged: Damaged) -> None:
    """Rename a damaged checkpoint, so that nothing reads it, and warn."""
    aside = (directory / str(step)).rename(_free_name(directory / f"{step}.damaged"))
    log(f"WARNING: {damaged} It was renamed to {aside.name}; training continues from the previous one.")


def clear_unfinished(directory: Path) -> None:
    """Delete incomplete checkpoints, which a kill or a full disk leaves behind."""
    for path in directory.glob("*tmp"):  # those of Orbax end in "-tmp"
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
    path, restored = directory / str(step), {}
    local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        stored = (orbax.read if orbax.wrote(path) else _read)(path, items)
        for number, (name, tree) in enumerate(items.items()):
            if number == 0 and not split_objective(tree)[1]:
                tree = join_objective(tree, _of_objective(stored[name]))
            owner = "training" if name == _TRAINING else "model"
            arrays = _arranged(f"checkpoint {path}", owner, stored[name], tree)
            if orbax.wrote(path):
                orbax.verify(path, name, arrays)
            restored[name] = jax.device_put(arrays, local)
        return restored
    except Exception as error:  # a damaged file may raise anything
        if isinstance(error, UserError) or is_process_loss(error):
            raise
        raise Damaged(f"checkpoint {path} is damaged: {_reason(error)}.") from error


def _read(path: Path, names: Mapping[str, Any]) -> dict[str, Arrays]:
    """Read the arrays of items by their names, after verifying the checksums."""
    checksums, found = _description(path)["sha256"], {}
    for name in names:
        content = (path / f"{name}{_SUFFIX}").read_bytes()
        if sha256(content).hexdigest() != checksums[f"{name}{_SUFFIX}"]:
            raise ValueError(f"{name} does not have the checksum with which it was saved")
        found[name] = safetensors.numpy.load(content)
    return found


def _description(path: Path) -> dict[str, Any]:
    return json.loads((path / _DESCRIPTION).read_text())


def _of_objective(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of an objective among stored arrays, as `split_objective` does."""
    named = {tuple(name.split(".")): array for name, array in stored.items()}
    return split_objective(unflatten_dict({name: named[name] for name in named if OF_OBJECTIVE in name[:2]}))[1]


def _arranged(where: str, owner: str, stored: Arrays, tree: Any) -> Any:
    """Return stored arrays as a tree of these shapes and types: the inverse of `_on_host`.

    Raises:
        UserError: they have other names, shapes or types.
    """
    refuse_other_model(where, stored, flatten_by_name(tree), owner)

    def array(name: str, leaf: Any) -> np.ndarray:
        found = stored[name]
        if _is_foreign(leaf) and found.dtype == f"u{leaf.dtype.itemsize}":
            return found.view(leaf.dtype)
        if found.dtype != leaf.dtype:
            stored_as = f"{name} is stored as {found.dtype}, but the {owner} expects {leaf.dtype}"
            raise UserError(f"{where} belongs to another {owner}: {stored_as}.")
        return found

    return jax.tree.map(array, names_tree(tree), tree)


def stream_state(directory: Path, step: int) -> str:
    """Read the state of the stream of training batches from a checkpoint.

    Raises:
        UserError: the checkpoint has no such state, or it is damaged.
    """
    path = directory / str(step)
    try:
        if not isinstance(state := _description(path)["stream"], str):
            raise ValueError("it was trained on arrays")
        return state
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"checkpoint {path} has no readable state of its stream ({_reason(error)}): start from the run by "
            "fit(init=run)."
        ) from None


def _reason(error: Exception) -> str:
    """Return the operating system's error if there is one, else the beginning of the message."""
    code = re.search(r"\(os error (\d+)\)", str(error))  # as safetensors writes it
    strerror = os.strerror(int(code[1])) if code else getattr(error, "strerror", None)
    return strerror or textwrap.shorten(str(error) or repr(error), 200)


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
