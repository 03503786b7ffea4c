"""The training loop: dispatches steps, evaluates every epoch, saves, and stops when told to."""

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from flax_vae.batches import OnDisk, epoch_indices
from flax_vae.fitting.members import Ensemble, Member
from flax_vae.fitting.report import Report
from flax_vae.runs.config import Config, settings
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.records import Record
from flax_vae.system.errors import UserError
from flax_vae.system.processes import is_first_process, maximum_over_processes, place_on_devices
from flax_vae.system.signals import deferred_signals
from flax_vae.training.ensemble import stack

_SECONDS_PER_DISPATCH = 0.5  # how long a Ctrl-C or the progress bar may have to wait
_BLOCK_BYTES = 2**24  # of images that are sent to the device at a time
_Dispatch = tuple[Any, Array | None, int, int]  # images, rows, and the steps from start to stop


class Interrupted(Exception):
    """A signal stopped the training after its state was saved."""

    def __init__(self, signum: int, directory: RunDirectory, config: Config) -> None:
        """Remember the signal: by convention the exit code is 128 + its number."""
        own = f" --objective {shlex.quote(config.objective)}" if config.has_own_objective else ""
        super().__init__(f"Stopped and saved. Resume by: flax-vae train --resume {directory}{own}")
        self.signum = signum


def train(directory: RunDirectory, members: Sequence[Member]) -> set[int]:
    """Train members from a common step to the last epoch, reporting and saving into their directories.

    Args:
        directory: what `--resume` continues: the run directory, or that of all members.
        members: the trainings, of which those that stopped early may be at an earlier step; devices share the members,
            and the batches of each.

    Returns:
        The members that diverged, where others finished.

    Raises:
        UserError: all diverged.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    training, steps_per_epoch = members[0].training, members[0].training.steps_per_epoch
    config, data = training.config, training.data
    furthest = max(members, key=lambda member: int(member.state.step))
    step = int(furthest.state.step)
    epochs = range(furthest.epochs_reported, config.epochs)
    clock = _Clock(furthest.directory.metrics())
    directories = [member.directory for member in members] if is_first_process() else []
    report = Report(directories, settings([m.training.config for m in members]), config.epochs, steps_per_epoch, step)
    with _writing(directory), Ensemble(members) as ensemble, report:
        if not (epochs and ensemble.going()):
            return set(ensemble.failed)
        images, held_out, evaluation = ensemble.place(data.batch(data.train)), data.batch(data.held_out), _Rhythm()

        def dispatches(epoch: int, position: int) -> Iterator[_Dispatch]:
            seeds = [member.training.config.seed for member in members]
            indices = stack([epoch_indices(len(data.train.images), training.batch_size, seed, epoch) for seed in seeds])
            return _dispatches(images, indices, position, ensemble)

        block, rows, *_ = next(dispatches(epochs[0], 0))
        ensemble.compile(block, rows, held_out)  # a signal may end this at once: there is nothing to save yet
        maximum_over_processes(0)  # all have compiled, so none that is told to stop has to wait for another's compiler
        with deferred_signals() as received:

            def stop_if_told() -> None:
                if signum := maximum_over_processes(received[0] if received else 0):
                    ensemble.save(step)
                    ensemble.finish()
                    raise Interrupted(signum, directory, config)

            def spans(start: int, end: int) -> Iterator[tuple[int, int]]:
                for span in evaluation.spans(start, end):
                    yield span
                    stop_if_told()

            for epoch in epochs:
                if not ensemble.going():
                    break
                first = epoch * steps_per_epoch
                for block, rows, start, end in clock.waiting(dispatches(epoch, step - first)):
                    ensemble.advance(block, rows, start, end)
                    step += end - start
                    clock.count((end - start) * training.batch_size * len(ensemble.going()))
                    report.advance(step, ensemble.means(step - first), clock.images_per_second())
                    stop_if_told()
                means = ensemble.means(steps_per_epoch)
                ensemble.stop_skipping(means)
                found, times = ensemble.evaluate(held_out, spans), clock.finish_epoch()
                records = {
                    i: {"epoch": epoch + 1, "step": step}
                    | times
                    | {f"train_{name}": value for name, value in means[i].items()}
                    | {f"{data.held_out_name}_{name}": value for name, value in found[i].items()}
                    for i in ensemble.going()
                }
                report.finish_epoch(records if is_first_process() else {})
                ensemble.clear_totals()
                ensemble.save(step)
                ensemble.stop_stale()
                stop_if_told()
    return set(ensemble.failed)


@contextmanager
def _writing(directory: RunDirectory) -> Iterator[None]:
    """Say of a full disk, and of whatever else ends a training from outside, that nothing is lost."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or directory}: {error.strerror or error}. {directory.advice}") from error


def _dispatches(
    images: Any, indices: Int[np.ndarray, "m s b"], position: int, ensemble: Ensemble
) -> Iterator[_Dispatch]:
    """Cut the rest of an epoch into dispatches (images, indices, start, stop), each of about half a second.

    Images that are on the device stay there. Others are gathered on the host in blocks of batches, without indices, the
    next ones while the device works on this one; each process gathers those of its own devices.
    """
    rhythm = _Rhythm()
    if isinstance(jax.tree.leaves(images)[0], jax.Array):
        rows = place_on_devices(indices, ensemble.rows)
        for start, stop in rhythm.spans(position, indices.shape[1]):
            yield images, rows, start, stop
        return
    import grain

    (indices,) = indices  # of a single member
    row_bytes = sum(leaf[0].nbytes for leaf in jax.tree.leaves(images))
    steps = max(1, _BLOCK_BYTES // (indices.shape[1] * row_bytes))
    mine = _columns(ensemble.blocks, indices.shape[1])

    def gather(start: int) -> tuple[Any, int]:
        wanted = indices[start : start + steps, mine]

        def of(leaf: np.ndarray | OnDisk) -> np.ndarray:
            block = np.zeros((steps, len(mine), *leaf.shape[1:]), leaf.dtype)  # one shape, one compilation
            block[: len(wanted)] = leaf[wanted]
            return block

        return jax.tree.map(of, images), len(wanted)

    place = partial(jax.make_array_from_process_local_data, ensemble.blocks)
    blocks = grain.MapDataset.source(range(position, len(indices), steps)).map(gather)
    for block, filled in blocks.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)):
        placed = jax.tree.map(place, block)
        for start, stop in rhythm.spans(0, filled):
            yield placed, None, start, stop


def _columns(sharding: jax.NamedSharding, batch_size: int) -> Int[np.ndarray, " c"]:
    """Which images of a batch are on the devices of this process, and so are read by it."""
    shards: Any = sharding.addressable_devices_indices_map((1, batch_size)).values()
    ranges = {columns.indices(batch_size) for _, columns in shards}
    return np.concatenate([np.arange(*each) for each in sorted(ranges)])


class _Rhythm:
    """Steps in spans that take about half a second each, the same ones in all processes."""

    steps = 1

    def spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        while start < end:
            began = time.perf_counter()
            stop = min(start + self.steps, end)
            yield start, stop
            if stop - start == self.steps:  # not the rest of a block
                rhythm = _SECONDS_PER_DISPATCH / (time.perf_counter() - began)
                self.steps = maximum_over_processes(max(1, int(self.steps * min(rhythm, 4.0))))
            start = stop


class _Clock:
    """Seconds of the whole run; images per second without what the first dispatch compiles; waiting for images."""

    def __init__(self, records: list[Record]) -> None:
        self.began = time.perf_counter() - (records[-1]["seconds"] if records else 0.0)
        self.last = time.perf_counter()
        self.images, self.seconds, self.warm = 0, 0.0, False
        self.waited, self.worked = 0.0, 0.0

    def waiting(self, dispatches: Iterator[_Dispatch]) -> Iterator[_Dispatch]:
        """The dispatches, once each is on the device, with the time kept that it took to come and that it worked."""
        asked = time.perf_counter()
        for dispatch in dispatches:
            jax.block_until_ready(dispatch)
            came = time.perf_counter()
            yield dispatch
            done = time.perf_counter()
            self.waited, self.worked, asked = self.waited + came - asked, self.worked + done - came, done

    def count(self, images: int) -> None:
        now = time.perf_counter()
        if self.warm:
            self.images, self.seconds = self.images + images, self.seconds + now - self.last
        self.last, self.warm = now, True

    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    def finish_epoch(self) -> dict[str, float]:
        record = {"seconds": time.perf_counter() - self.began, "images_per_second": self.images_per_second()}
        record["data_wait"] = self.waited / max(self.waited + self.worked, 1e-9)
        self.images, self.seconds, self.waited, self.worked = 0, 0.0, 0.0, 0.0
        return record
