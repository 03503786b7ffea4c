"""Feeding training images to the devices.

If the images fit, they stay on the devices, where a step selects its batch by a row of indices. Otherwise the host
gathers them in blocks of batches, the next blocks while the devices work on the current one. Each process gathers only
what its own devices need. The batches of a stream are sent in such blocks, too.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from flax_vae.batches import Batch, OnDisk, batch_size_of, epoch_indices, refuse_outside
from flax_vae.data.stream import Feed
from flax_vae.fitting.timing import Pace
from flax_vae.fitting.training import Training
from flax_vae.system.errors import UserError
from flax_vae.system.processes import place_on_devices
from flax_vae.training.ensemble import stack
from flax_vae.training.sharding import BATCH_AXES, EVERYWHERE, MEMBERS_AXIS

_RESIDENT_BYTES = 2**31  # larger images are sent to the devices in blocks
_BLOCK_BYTES, _SECONDS_PER_BLOCK = 2**24, 0.5


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
    """The training images, and the order in which each member sees them.

    Attributes:
        state: the state of the stream after the steps of the last dispatch; None if there is none.
    """

    def __init__(self, trainings: Sequence[Training], mesh: Mesh) -> None:
        """Place the images on the devices if they fit.

        Args:
            trainings: the trainings of the members.
            mesh: devices that split the members and their batches.

        Raises:
            UserError: several members train, but the images do not fit.
        """
        data, self.trainings, self.mesh = trainings[0].data, trainings, mesh
        self.feed, self.state = data.feed, None if data.feed is None else data.feed.state()
        if data.feed is not None:
            return
        self.images: Any = data.batch(data.train)
        leaves = jax.tree.leaves(self.images)
        size = sum(leaf.nbytes for leaf in leaves)
        self.is_resident = size <= _RESIDENT_BYTES and not isinstance(leaves[0], OnDisk)
        if self.is_resident:
            self.images = place_on_devices(self.images, NamedSharding(mesh, EVERYWHERE))
        elif len(trainings) > 1:
            raise UserError(
                f"{size / 2**30:.1f} GiB of images do not fit on the device, as several members require: "
                "train one at a time."
            )

    def example(self, epoch: int) -> Dispatch:
        """Return a dispatch to compile with; no batch of a stream is read for it."""
        if self.feed is None:
            return next(self.dispatches(epoch, 0))
        return Dispatch(_place(self._empty_block(self.feed), self.mesh), None, 0, 0)

    def dispatches(self, epoch: int, position: int) -> Iterator[Dispatch]:
        """Yield an epoch from a step on, in dispatches of about half a second."""
        if self.feed is not None:
            yield from self._stream_dispatches(self.feed, self.trainings[0].steps_per_epoch - position)
            return
        count, batch_size = batch_size_of(self.images), self.trainings[0].batch_size
        indices = stack([epoch_indices(count, batch_size, training.config.seed, epoch) for training in self.trainings])
        if self.is_resident:
            rows = place_on_devices(indices, NamedSharding(self.mesh, PartitionSpec(MEMBERS_AXIS, None, BATCH_AXES)))
            for start, stop in Pace().spans(position, indices.shape[1]):
                yield Dispatch(self.images, rows, start, stop)
        else:
            (indices,) = indices  # a single member
            yield from _block_dispatches(self.images, indices[position:], self.mesh)

    def _stream_dispatches(self, feed: Feed, remaining: int) -> Iterator[Dispatch]:
        """Yield dispatches of the next batches of a stream; another thread reads a block ahead."""
        model, pace = self.trainings[0].model, Pace()

        def read(remaining: int) -> tuple[Batch, list[str | None]]:
            """Fill a block for at most half a second; return it, and the state of the stream after each of its batches.

            All blocks have one shape, so that the steps are compiled once.
            """
            block, states, began = self._empty_block(feed), list[str | None](), time.perf_counter()
            capacity = min(batch_size_of(block), remaining)
            while len(states) < capacity and (not states or time.perf_counter() - began < _SECONDS_PER_BLOCK):
                batch = next(feed)
                refuse_outside(batch, model)
                for whole, leaf in zip(jax.tree.leaves(block), jax.tree.leaves(batch), strict=True):
                    whole[len(states)] = leaf
                states.append(feed.state())
            return block, states

        with ThreadPoolExecutor(1) as reader:
            next_block = reader.submit(read, remaining)
            while remaining:
                block, states = next_block.result()
                remaining -= len(states)
                if remaining:
                    next_block = reader.submit(read, remaining)
                placed = _place(block, self.mesh)
                for start, stop in pace.spans(0, len(states)):
                    self.state = states[stop - 1]
                    yield Dispatch(placed, None, start, stop)

    def _empty_block(self, feed: Feed) -> Batch:
        """Return zeros "s b ..." for as many batches as are sent to the devices at a time."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(feed.first))
        steps = max(1, min(_BLOCK_BYTES // size, feed.steps_per_epoch))
        return jax.tree.map(lambda leaf: np.zeros((steps, *leaf.shape), leaf.dtype), feed.first)


def _place(block: Any, mesh: Mesh) -> Any:
    """Place this process's columns of a block of batches "s b ..." on the devices."""
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
    return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), block)


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
        placed = _place(block, mesh)
        for start, stop in pace.spans(0, filled):
            yield Dispatch(placed, None, start, stop)


def _local_columns(sharding: NamedSharding, batch_size: int) -> Int[np.ndarray, " c"]:
    """Return the columns of a batch that the devices of this process hold."""
    shards: Any = sharding.addressable_devices_indices_map((1, batch_size)).values()
    ranges = {columns.indices(batch_size) for _, columns in shards}
    return np.concatenate([np.arange(*bounds) for bounds in sorted(ranges)])
