"""Feeding training images to the devices.

If the images fit, they stay on the devices, where a step selects its batch by a row of indices. Otherwise the host
gathers them in blocks of batches, the next blocks while the devices work on the current one. Each process gathers only
what its own devices need.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from flax_vae.batches import Batch, OnDisk, batch_size_of, epoch_indices
from flax_vae.fitting.timing import Pace
from flax_vae.fitting.training import Training
from flax_vae.system.errors import UserError
from flax_vae.system.processes import place_on_devices
from flax_vae.training.ensemble import stack
from flax_vae.training.sharding import BATCH_AXES, EVERYWHERE, MEMBERS_AXIS

_RESIDENT_BYTES = 2**31  # larger images are sent to the devices in blocks
_BLOCK_BYTES = 2**24


class Dispatch(NamedTuple):
    """Steps that the devices run without returning to the host.

    Attributes:
        images: all images, or a block of batches "s b ...".
        rows: indices "m s b" of each member's batches among all images; None for a block.
        start: first step, as a position among the batches.
        stop: end of the steps.
    """

    images: Any
    rows: Array | None
    start: int
    stop: int


class HostInput:
    """The training images, and the order in which each member sees them."""

    def __init__(self, trainings: Sequence[Training], mesh: Mesh) -> None:
        """Place the images on the devices if they fit.

        Args:
            trainings: the trainings of the members.
            mesh: devices that split the members and their batches.

        Raises:
            UserError: several members train, but the images do not fit.
        """
        data, self.trainings, self.mesh = trainings[0].data, trainings, mesh
        self.images: Any = data.batch(data.train)
        leaves = jax.tree.leaves(self.images)
        size = sum(leaf.nbytes for leaf in leaves)
        self.is_resident = size <= _RESIDENT_BYTES and not isinstance(leaves[0], OnDisk)
        if self.is_resident:
            self.images = place_on_devices(self.images, NamedSharding(mesh, EVERYWHERE))
        elif len(trainings) > 1:
            raise UserError(
                f"{size / 2**30:.1f} GiB of images do not fit on the device, as several members require: "
                "train one seed, beta and learning rate at a time."
            )

    def dispatches(self, epoch: int, position: int) -> Iterator[Dispatch]:
        """Yield an epoch from a step on, in dispatches of about half a second."""
        count, batch_size = batch_size_of(self.images), self.trainings[0].batch_size
        indices = stack([epoch_indices(count, batch_size, training.config.seed, epoch) for training in self.trainings])
        if self.is_resident:
            rows = place_on_devices(indices, NamedSharding(self.mesh, PartitionSpec(MEMBERS_AXIS, None, BATCH_AXES)))
            for start, stop in Pace().spans(position, indices.shape[1]):
                yield Dispatch(self.images, rows, start, stop)
        else:
            (indices,) = indices  # a single member
            yield from _block_dispatches(self.images, indices[position:], self.mesh)


def _block_dispatches(images: Batch, indices: Int[np.ndarray, "steps batch"], mesh: Mesh) -> Iterator[Dispatch]:
    import grain

    sharding, pace = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES)), Pace()
    row_bytes = sum(leaf[0].nbytes for leaf in jax.tree.leaves(images))
    steps = max(1, _BLOCK_BYTES // (indices.shape[1] * row_bytes))
    columns = _local_columns(sharding, indices.shape[1])

    def gather(start: int) -> tuple[Any, int]:
        wanted = indices[start : start + steps, columns]

        def gather_leaf(leaf: np.ndarray | OnDisk) -> np.ndarray:
            block = np.zeros((steps, len(columns), *leaf.shape[1:]), leaf.dtype)  # one shape, so one compilation
            block[: len(wanted)] = leaf[wanted]
            return block

        return jax.tree.map(gather_leaf, images), len(wanted)

    blocks = grain.MapDataset.source(range(0, len(indices), steps)).map(gather)
    for block, filled in blocks.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)):
        placed = jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), block)
        for start, stop in pace.spans(0, filled):
            yield Dispatch(placed, None, start, stop)


def _local_columns(sharding: NamedSharding, batch_size: int) -> Int[np.ndarray, " c"]:
    """Return the columns of a batch that the devices of this process hold."""
    shards: Any = sharding.addressable_devices_indices_map((1, batch_size)).values()
    ranges = {columns.indices(batch_size) for _, columns in shards}
    return np.concatenate([np.arange(*bounds) for bounds in sorted(ranges)])
