"""Checkpoints on disk, by Orbax: the last one, and the one with the best test loss. Arrays only, nothing executable."""

import gc
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax

from flax_vae.errors import UserError


def open_checkpoints(directory: Path) -> Any:
    """Orbax's manager of a run's checkpoints; use it in a `with` block."""
    import orbax.checkpoint as ocp  # takes over a second: only those who save or load pay
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

    def loss_downwards(metrics: Mapping[str, float]) -> float:
        return -metrics["loss"]

    options = ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy([LatestN(1), BestN(get_metric_fn=loss_downwards, n=1)]),
        best_fn=loss_downwards,
        enable_async_checkpointing=False,  # a checkpoint is whole before its epoch is reported
    )
    return ocp.CheckpointManager(directory.absolute(), options=options)


def save(manager: Any, step: int, items: Mapping[str, Any], loss: float) -> None:
    """Write one pytree of arrays per item; atomic, so that a kill leaves the checkpoint before it."""
    import orbax.checkpoint as ocp

    saved = ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items()})
    manager.save(step, args=saved, metrics={"loss": loss})


def restore(directory: Path, which: Literal["last", "best"], items: Mapping[str, Any]) -> dict[str, Any]:
    """Read items onto this machine's default device; `items` gives their trees as shapes and dtypes.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another model.
    """
    import orbax.checkpoint as ocp

    nothing = UserError(f"{directory.parent} holds no checkpoint: it ended before its first epoch; start it again.")
    if not directory.is_dir():
        raise nothing
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def target(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    wanted = {name: ocp.args.StandardRestore(jax.tree.map(target, tree)) for name, tree in items.items()}
    with open_checkpoints(directory) as manager:
        step = manager.latest_step() if which == "last" else manager.best_step()
        if step is None:
            raise nothing
        try:
            with _silence_abandoned_reads():
                name, tree = next(iter(items.items()))  # the parameters
                stored = ocp.StandardCheckpointHandler().metadata(directory.absolute() / str(step) / name)
                _check_shapes(stored.tree, tree)
                return dict(manager.restore(step, args=ocp.args.Composite(**wanted)))
        except Exception as error:  # whatever a damaged or a stranger's file makes Orbax raise
            reason = textwrap.shorten(str(error) or repr(error), 200)
            raise UserError(f"checkpoint {directory / str(step)} is damaged or of another model: {reason}") from error


def _check_shapes(stored: Any, wanted: Any) -> None:
    """Raise at the first array that is not stored in the shape that the model wants."""

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}

    found = shapes(stored)
    for name, shape in shapes(wanted).items():
        if found.get(name) != shape:
            raise ValueError(f"{name} is stored as {found.get(name, 'nothing')}, the model wants {shape}")


@contextmanager
def _silence_abandoned_reads() -> Iterator[None]:
    """When one read fails Orbax abandons the others, and each would print a traceback over the error message."""
    hooks = sys.excepthook, sys.unraisablehook

    def silent(*_: object) -> None: ...

    sys.excepthook = sys.unraisablehook = silent
    try:
        yield
    except Exception:
        time.sleep(0.5)  # for reads under way in other threads
        gc.collect()
        raise
    finally:
        sys.excepthook, sys.unraisablehook = hooks
