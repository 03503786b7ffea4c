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
        for index, part in _local_parts(leaf):
            bits = np.ascontiguousarray(part).view(f"u{part.dtype.itemsize}").reshape(part.shape)
            total = int(bits.sum(dtype=np.uint64))
            plain += total
            weighted += (2 * offset + 1) * total
            for axis, where in enumerate(index):  # i is the offset and a sum of one position per axis
                stride, others = prod(leaf.shape[axis + 1 :]), tuple({*range(bits.ndim)} - {axis})
                positions = stride * np.arange(*where.indices(leaf.shape[axis]), dtype=np.uint64)
                weighted += 2 * int(positions @ bits.sum(others, dtype=np.uint64))
        offset += prod(leaf.shape)
    return [plain % 2**64, weighted % 2**64]


def _local_parts(leaf: Any) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Yield the parts of an array on this process, each element once, with their indices in the array."""
    if isinstance(leaf, jax.Array):
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                yield shard.index, np.asarray(shard.data)
    else:
        yield (slice(None),) * np.ndim(leaf), np.asarray(leaf)
