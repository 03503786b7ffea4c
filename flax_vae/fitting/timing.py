"""Timing of the training loop: the length of a dispatch, and throughput and waiting times of an epoch."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from flax_vae.system.processes import maximum_over_processes

_SECONDS_PER_DISPATCH = 0.5  # Ctrl-C and the progress bar may have to wait this long


class Pace:
    """Cuts steps into spans of about half a second each, which are the same in all processes."""

    steps = 1

    def spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield the start and the end of each span of a range; the caller runs it before asking for the next one."""
        while start < end:
            began = time.perf_counter()
            stop = min(start + self.steps, end)
            yield start, stop
            if stop - start == self.steps:  # a full span, not the rest of a range
                factor = _SECONDS_PER_DISPATCH / (time.perf_counter() - began)
                self.steps = maximum_over_processes(max(1, int(self.steps * min(factor, 4.0))))
            start = stop


class Clock:
    """Measures a run: seconds since its start, images per second, and the fraction of time spent waiting for images."""

    def __init__(self, seconds_before: float) -> None:
        """Start the clock of a run that has taken some seconds before it was resumed."""
        self.began = time.perf_counter() - seconds_before
        self.last = time.perf_counter()
        self.images, self.seconds, self.warm = 0, 0.0, False
        self.waited, self.worked = 0.0, 0.0

    def waiting(self, dispatches: Iterable[Any]) -> Iterator[Any]:
        """Yield dispatches once they are on the device, and time the wait for each and the work on it."""
        requested = time.perf_counter()
        for dispatch in dispatches:
            jax.block_until_ready(dispatch)
            arrived = time.perf_counter()
            yield dispatch
            finished = time.perf_counter()
            self.waited += arrived - requested
            self.worked += finished - arrived
            requested = finished

    def count(self, images: int) -> None:
        """Count images trained on since the last call; the first call, after compilation, starts the measurement."""
        now = time.perf_counter()
        if self.warm:
            self.images, self.seconds = self.images + images, self.seconds + now - self.last
        self.last, self.warm = now, True

    def images_per_second(self) -> float:
        """Return the throughput of the epoch so far; 0 before the first measurement."""
        return self.images / self.seconds if self.seconds else 0.0

    def finish_epoch(self) -> dict[str, float]:
        """Return the entries of the epoch's record, and start the next epoch."""
        record = {"seconds": time.perf_counter() - self.began, "images_per_second": self.images_per_second()}
        record["data_wait"] = self.waited / max(self.waited + self.worked, 1e-9)
        self.images, self.seconds, self.waited, self.worked = 0, 0.0, 0.0, 0.0
        return record
