"""Checkpoints on disk, by Orbax: the last one, and the one with the best test loss. Arrays only, nothing executable.

Which one is the best stands in the run's `metrics.jsonl` alone, so that no second record can contradict it.
"""

import gc
import logging
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.tree_util import keystr

from flax_vae.errors import UserError


def open_checkpoints(directory: Path, keep: int = 1, best: Callable[[], int | None] = lambda: None) -> Any:
    """Orbax's manager of a run's checkpoints; use it in a `with` block.

    Args:
        directory: the folder of the checkpoints.
        keep: how many of the last ones stay.
        best: the step of one that stays as well, asked whenever one is written.
    """
    import orbax.checkpoint as ocp  # takes over a second: only those who save or load pay
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

    class Best:
        def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
            step = best()
            return [info.step == step for info in checkpoints]

    options = ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy([LatestN(keep), Best()]),
        enable_async_checkpointing=False,  # a checkpoint is whole before its epoch is reported
    )
    return ocp.CheckpointManager(directory.absolute(), options=options)


def save(manager: Any, step: int, items: Mapping[str, Any]) -> None:
    """Write one pytree of arrays per item; atomic, so that a kill leaves the checkpoint before it."""
    import orbax.checkpoint as ocp

    saved = ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items()})
    manager.save(step, args=saved)


def saved_steps(directory: Path) -> list[int]:
    """The steps that there are checkpoints of, in ascending order.

    Raises:
        UserError: there is none.
    """
    if directory.is_dir():
        with open_checkpoints(directory) as manager:
            if steps := sorted(manager.all_steps()):
                return steps
    raise UserError(f"{directory.parent} holds no checkpoint: it ended before its first epoch; start it again.")


def common_step(directories: Sequence[Path]) -> int:
    """The last step that all of these have a checkpoint of.

    Raises:
        UserError: there is none.
    """
    common = set.intersection(*(set(saved_steps(directory)) for directory in directories))
    if not common:
        raise UserError(f"{directories[0].parent.parent}: its runs have no checkpoint of one step; start them again.")
    return max(common)


def forget_after(directory: Path, step: int) -> None:
    """Delete the checkpoints that are later than a step."""
    with open_checkpoints(directory) as manager:
        for later in manager.all_steps():
            if later > step:
                manager.delete(later)


def restore(directory: Path, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
    """Read items of a step onto this machine's default device; `items` gives their trees as shapes and dtypes.

    Raises:
        UserError: the checkpoint is damaged, or of another model.
    """
    import orbax.checkpoint as ocp

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def target(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    wanted = {name: ocp.args.StandardRestore(jax.tree.map(target, tree)) for name, tree in items.items()}
    with open_checkpoints(directory) as manager:
        try:
            with _silence_abandoned_reads():
                name, tree = next(iter(items.items()))  # the parameters
                stored = ocp.StandardCheckpointHandler().metadata(directory.absolute() / str(step) / name)
                check_shapes(named(stored.tree), named(tree))
                return dict(manager.restore(step, args=ocp.args.Composite(**wanted)))
        except Exception as error:  # whatever a damaged or a stranger's file makes Orbax raise
            reason = textwrap.shorten(str(error) or repr(error), 200)
            others = ", ".join(str(other) for other in manager.all_steps() if other != step)
            advice = f" Move it away to use that of step {others}." if others else ""
            raise UserError(
                f"checkpoint {directory / str(step)} is damaged or of another model: {reason}.{advice}"
            ) from error


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


@contextmanager
def _silence_abandoned_reads() -> Iterator[None]:
    """When one read fails Orbax abandons the others, and each would print a traceback over the error message."""
    hooks, tasks = (sys.excepthook, sys.unraisablehook), logging.getLogger("asyncio")

    def silent(*_: object) -> None: ...

    sys.excepthook = sys.unraisablehook = silent
    tasks.addFilter(_of_no_abandoned_task)  # and, after an error, for good: a task may be collected at the very end
    try:
        yield
        tasks.removeFilter(_of_no_abandoned_task)
    except Exception:
        time.sleep(0.5)  # for reads under way in other threads
        gc.collect()
        raise
    finally:
        sys.excepthook, sys.unraisablehook = hooks


def _of_no_abandoned_task(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Task exception was never retrieved")
