"""Checkpoints that earlier versions wrote with Orbax: still read, no longer written.

Orbax does not notice a flipped bit, so each of these checkpoints has a checksum of every tree (after Fletcher 1982):

    s₁ = Σ xᵢ mod 2⁶⁴        s₂ = Σ (2i + 1) xᵢ mod 2⁶⁴

where xᵢ are the bits of element i, read as an unsigned integer; i counts the elements of all arrays of the tree.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_vae.pytrees import flatten_by_name


def wrote(checkpoint: Path) -> bool:
    """Return True if Orbax wrote a checkpoint."""
    return (checkpoint / "_CHECKPOINT_METADATA").exists()


def read(checkpoint: Path, name: str) -> dict[str, np.ndarray]:
    """Read an item's arrays, by name. Every process must call this."""
    import orbax.checkpoint as ocp  # the import takes more than a second

    firsts = [jax.local_devices(process)[0] for process in range(jax.process_count())]
    everywhere = jax.NamedSharding(jax.sharding.Mesh(np.array(firsts), ("processes",)), jax.P())

    def target(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

    path = checkpoint.absolute()
    tree = jax.tree.map(target, ocp.StandardCheckpointHandler().metadata(path / name).tree)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree)})
        restored = reader.restore(path, args=args)
    return flatten_by_name(jax.device_get(restored[name]))


def verify(checkpoint: Path, name: str, tree: Any) -> None:
    """Raise ValueError unless a tree has the checksum of an item."""
    if _checksum(tree) != json.loads((checkpoint / "sums" / "metadata").read_text())[name]:
        raise ValueError(f"{name} does not have the checksum with which it was saved")


def _checksum(tree: Any) -> list[int]:
    plain, weighted, offset = 0, 0, 0
    for leaf in jax.tree.leaves(tree):
        x = np.ravel(leaf).view(f"u{leaf.dtype.itemsize}").astype(np.uint64)
        plain += int(x.sum(dtype=np.uint64))
        weighted += int(((2 * np.arange(offset, offset + x.size, dtype=np.uint64) + 1) * x).sum(dtype=np.uint64))
        offset += x.size
    return [plain % 2**64, weighted % 2**64]
