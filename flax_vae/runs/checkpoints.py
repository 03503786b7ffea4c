"""Checkpoints on disk: the last ones, and the one with the best test loss. Arrays only, nothing executable.

A checkpoint is a folder named after its step. It has a .safetensors file for each tree of arrays, and checkpoint.json
with the SHA-256 checksums of these files and the state of a stream. Only the run's `metrics.jsonl` says which
checkpoint is best, so that no second record can contradict it.
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
from flax_vae.system.memory import is_out_of_memory
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
_FOREIGN = "V"  # the kind of the types that NumPy lacks


class Damaged(UserError):
    """A checkpoint is unreadable, or its arrays differ from those that were saved."""


class Checkpoints:
    """The checkpoints of a training. The first process writes them, in a thread, while the training continues.

    Every process must call the same methods in the same order.

    Attributes:
        latest_step: the step of the last one, which may not be fully written yet; None if there is none.
    """

    def __init__(self, directory: Path, keep: int, best: Callable[[], int | None]) -> None:
        """Create the folder, or clear it of what a kill left behind; arguments as for `open_checkpoints`."""
        self._directory, self._keep, self._best = directory, keep, best
        run_in_first_process(_prepare, directory)
        latest = maximum_over_processes(max(saved_steps(directory), default=-1) if is_first_process() else -1)
        self.latest_step = None if latest < 0 else latest
        self._writer = ThreadPoolExecutor(1)
        self._unfinished: Future[None] | None = None

    def save(self, step: int, items: Mapping[str, Any], stream: str | None = None) -> None:
        """Start writing a checkpoint, atomically: a kill leaves the previous one in place.

        Args:
            step: the step.
            items: its trees of arrays, which must not be donated before `finish`.
            stream: the state of the stream of training batches, or None.

        Raises:
            OSError: the previous checkpoint could not be written.
            UserError: likewise, in the other processes; or two arrays have the same name.
        """
        self.finish()
        trees = {name: jax.tree.map(gather, flatten_by_name(tree)) for name, tree in items.items()}
        if is_first_process():
            best = self._best()  # now: a later record may call a step the best that has no checkpoint yet
            self._unfinished = self._writer.submit(self._write, step, jax.device_get(trees), stream, best)
        self.latest_step = step

    def finish(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            OSError: it could not be written.
            UserError: likewise, in the other processes.
        """
        run_in_first_process(self._wait)

    def close(self) -> None:
        """Wait for this process's thread, without the other processes, and ignore its errors."""
        with suppress(Exception):
            self._wait()

    def _wait(self) -> None:
        if self._unfinished is not None:
            self._unfinished.result()

    def _write(self, step: int, trees: Mapping[str, Arrays], stream: str | None, best: int | None) -> None:
        folder = self._directory / f"{step}{_UNFINISHED}"
        about: dict[str, Any] = {"stream": stream, "types": {}, "sha256": {}}
        try:
            folder.mkdir()
            for name, arrays in trees.items():
                path = folder / f"{name}{_SUFFIX}"
                types = {key: array.dtype.name for key, array in arrays.items() if array.dtype.kind == _FOREIGN}
                safetensors.numpy.save_file({key: _as_stored(array) for key, array in arrays.items()}, path)
                with path.open("rb") as file:
                    about["types"][name], about["sha256"][name] = types, file_digest(file, "sha256").hexdigest()
                    os.fsync(file.fileno())
            with (folder / _DESCRIPTION).open("w") as file:
                file.write(json.dumps(about))
                file.flush()
                os.fsync(file.fileno())
            folder.rename(self._directory / str(step))
        except (OSError, SafetensorError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise OSError(0, f"cannot write a checkpoint: {_reason(error)}", str(self._directory)) from error
        for old in {*saved_steps(self._directory)[: -self._keep]} - {best}:
            with suppress(OSError):  # as while somebody reads it; it is deleted after the next checkpoint
                _delete(self._directory / str(old))


@contextmanager
def open_checkpoints(
    directory: Path, keep: int = 2, best: Callable[[], int | None] = lambda: None
) -> Iterator[Checkpoints]:
    """Open a run's checkpoints for writing; at the end the last one is complete.

    Args:
        directory: the folder of the checkpoints.
        keep: number of last checkpoints to keep.
        best: returns the step of one more to keep; called whenever a checkpoint is saved.

    Raises:
        OSError: a checkpoint cannot be written.
    """
    checkpoints = Checkpoints(directory, keep, best)
    try:
        yield checkpoints
        checkpoints.finish()
    except BaseException:
        checkpoints.close()  # the exception says more
        raise


def _as_stored(array: np.ndarray) -> np.ndarray:
    """Return the array that is stored: types that NumPy lacks, such as bfloat16, become unsigned integers."""
    array = np.asarray(array, order="C")
    return array.view(f"u{array.itemsize}") if array.dtype.kind == _FOREIGN else array


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
    """Delete a checkpoint. A kill meanwhile leaves it complete, or marked as incomplete."""
    shutil.rmtree(checkpoint.rename(checkpoint.with_name(f"{checkpoint.name}{_UNFINISHED}")))


def set_aside(directory: Path, step: int, damaged: Damaged) -> None:
    """Rename a damaged checkpoint, so that nothing reads it, and warn."""
    aside = (directory / str(step)).rename(_free_name(directory / f"{step}.damaged"))
    log(f"WARNING: {damaged} It was renamed to {aside.name}; training continues from the previous one.")


def _prepare(directory: Path) -> None:
    """Create the folder of checkpoints, or delete the incomplete ones in it, which a kill leaves behind."""
    directory.mkdir(exist_ok=True)
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
    by_orbax = orbax.wrote(path)
    try:
        for number, (name, tree) in enumerate(items.items()):
            stored = (orbax.read if by_orbax else _read)(path, name)
            if number == 0 and not split_objective(tree)[1]:
                tree = join_objective(tree, _of_objective(stored))
            owner = "training" if name == _TRAINING else "model"
            arrays = _arranged(f"checkpoint {path}", owner, stored, tree)
            if by_orbax:
                orbax.verify(path, name, arrays)
            restored[name] = jax.device_put(arrays, local)
        return restored
    except Exception as error:  # a damaged file may raise anything
        if isinstance(error, UserError | MemoryError) or is_out_of_memory(error) or is_process_loss(error):
            raise
        raise Damaged(f"checkpoint {path} is damaged: {_reason(error)}.") from error


def _read(path: Path, name: str) -> Arrays:
    """Read an item's arrays, by name, after verifying their checksum."""
    about, content = _description(path), (path / f"{name}{_SUFFIX}").read_bytes()
    if sha256(content).hexdigest() != about["sha256"][name]:
        raise ValueError(f"{name} does not have the checksum with which it was saved")
    arrays, types = safetensors.numpy.load(content), about["types"][name]
    return arrays | {key: arrays[key].view(np.dtype(dtype)) for key, dtype in types.items()}


def _description(path: Path) -> dict[str, Any]:
    return json.loads((path / _DESCRIPTION).read_text())


def _of_objective(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the objective's part of stored arrays, in the form that `split_objective` returns."""
    named = {tuple(name.split(".")): array for name, array in stored.items()}
    tree = unflatten_dict({name: array for name, array in named.items() if OF_OBJECTIVE in name[:2]})
    if any(name[0] == "params" for name in named):  # a whole tree, also if the objective has no parameters
        tree.setdefault("params", {})
    return split_objective(tree)[1]


def _arranged(where: str, owner: str, stored: Arrays, tree: Any) -> Any:
    """Arrange stored arrays as a tree of the given shapes and types.

    Raises:
        UserError: they have other names, shapes or types.
    """
    refuse_other_model(where, stored, flatten_by_name(tree), owner)

    def array(name: str, leaf: Any) -> np.ndarray:
        if (found := stored[name].dtype) != leaf.dtype:
            stored_as = f"{name} is stored as {found}, but the {owner} expects {leaf.dtype}"
            raise UserError(f"{where} belongs to another {owner}: {stored_as}.")
        return stored[name]

    return jax.tree.map(array, names_tree(tree), tree)


def stream_state(directory: Path, step: int) -> str:
    """Read the state of the stream of training batches from a checkpoint.

    Raises:
        UserError: the checkpoint has no such state, or it is damaged.
    """
    path = directory / str(step)
    try:
        if not isinstance(state := _description(path)["stream"], str):
            raise ValueError("the run was trained on arrays")
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
