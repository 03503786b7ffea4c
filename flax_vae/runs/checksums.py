"""Checksums of parameter trees.

Orbax does not notice a flipped bit: it restores a checkpoint from a damaged file and returns other numbers. A training
would then continue from them, and nobody could tell why it differs. So each checkpoint stores checksums of its arrays,
which are computed when it is saved and compared when it is restored.

Hashing the bytes of a file would not do: Orbax chooses the files, compresses them, and lets each process write the
shards of its own devices. So the checksum is a function of the arrays alone. It is a sum over their elements, hence
every process sums over its own shards, and the totals do not depend on the sharding. After Fletcher (1982),

    s₁ = Σ xᵢ mod 2⁶⁴        s₂ = Σ (2i + 1) xᵢ mod 2⁶⁴

where xᵢ are the bits of element i, read as an unsigned integer; i counts the elements of all arrays of the tree. A
flipped bit changes s₁. It changes s₂, too: the weights are odd, hence invertible mod 2⁶⁴. Two elements that change
places change s₂.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

import jax
import numpy as np


def checksum(tree: Any) -> list[int]:
    """Return [s₁, s₂] of the elements on this process, each element once; their sum over processes is the checksum."""
    plain, weighted, offset = 0, 0, 0
    for leaf in jax.tree.leaves(tree):
        strides = [prod(leaf.shape[axis + 1 :]) for axis in range(np.ndim(leaf))]
        for index, part in _local_parts(leaf):
            bits = np.ascontiguousarray(part).view(f"u{part.dtype.itemsize}").reshape(part.shape)
            axes = zip(leaf.shape, index, strides, strict=True)
            positions = [
                np.uint64(stride) * np.arange(*where.indices(size), dtype=np.uint64) for size, where, stride in axes
            ]
            total, moment = _moments(bits, positions)
            plain += total
            weighted += 2 * (moment + offset * total) + total
        offset += prod(leaf.shape)
    return [plain % 2**64, weighted % 2**64]


def _moments(x: np.ndarray, positions: list[np.ndarray]) -> tuple[int, int]:
    """Return Σ x and Σ i x mod 2⁶⁴, where i is a sum of one position per axis; one axis at a time."""
    if not positions:
        return int(x), 0
    first = (x.reshape(len(x), -1).sum(1, dtype=np.uint64) * positions[0]).sum(dtype=np.uint64)
    total, rest = _moments(np.asarray(x.sum(0, dtype=np.uint64)), positions[1:])
    return total, int(first) + rest


def _local_parts(leaf: Any) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Yield the parts of an array on this process, each element once, with their indices in the array."""
    if isinstance(leaf, jax.Array):
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                yield shard.index, np.asarray(shard.data)
    else:
        yield (slice(None),) * np.ndim(leaf), np.asarray(leaf)
