"""Checkpoints of earlier versions, which Orbax wrote: they are read, and no longer written.

Orbax does not notice a flipped bit, so each of these checkpoints has a checksum of every tree (after Fletcher 1982):

    s₁ = Σ xᵢ mod 2⁶⁴        s₂ = Σ (2i + 1) xᵢ mod 2⁶⁴

where xᵢ are the bits of element i, read as an unsigned integer; i counts the elements of all arrays of the tree.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_vae.pytrees import flatten_by_name


def wrote(checkpoint: Path) -> bool:
    """Return True if a checkpoint is Orbax's."""
    return (checkpoint / "_CHECKPOINT_METADATA").exists()


def read(checkpoint: Path, names: Iterable[str]) -> dict[str, dict[str, np.ndarray]]:
    """Read the arrays of items by their names. Every process must call this."""
    import orbax.checkpoint as ocp  # takes over a second

    everywhere = jax.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), ("all",)), jax.P())

    def target(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

    handler = ocp.StandardCheckpointHandler()
    targets = {name: jax.tree.map(target, handler.metadata(checkpoint.absolute() / name).tree) for name in names}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in targets.items()})
        restored = reader.restore(checkpoint.absolute(), args=args)
    return {name: flatten_by_name(jax.device_get(restored[name])) for name in names}


def verify(checkpoint: Path, name: str, tree: Any) -> None:
    """Raise ValueError unless a tree has the checksum of an item."""
    if _checksum(tree) != json.loads((checkpoint / "sums" / "metadata").read_text())[name]:
        raise ValueError(f"{name} does not have the checksum with which it was saved")


def _checksum(tree: Any) -> list[int]:
    bits = [np.ravel(leaf).view(f"u{leaf.dtype.itemsize}").astype(np.uint64) for leaf in jax.tree.leaves(tree)]
    x = np.concatenate([np.zeros(0, np.uint64), *bits])
    weights = 2 * np.arange(len(x), dtype=np.uint64) + 1
    return [int(x.sum(dtype=np.uint64)), int((weights * x).sum(dtype=np.uint64))]
