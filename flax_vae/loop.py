"""The training loop: dispatches steps, evaluates every epoch, saves, and stops when told to."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, Sharding
from jaxtyping import Array, Int

from flax_vae import checkpoint
from flax_vae.config import Config
from flax_vae.data import ImageData
from flax_vae.errors import UserError
from flax_vae.evaluation import make_evaluate
from flax_vae.objectives import Metrics, Objective
from flax_vae.report import Report, read_metrics, say
from flax_vae.training import (
    TrainState,
    data_mesh,
    epoch_indices,
    init_state,
    make_train_step,
    make_train_steps,
    shardings,
)
from flax_vae.vae import VAE

_SECONDS_PER_DISPATCH = 0.5  # how long a Ctrl-C or the progress bar may have to wait
_RESIDENT_BYTES = 2**31  # images beyond this are sent to the device in blocks
_BLOCK_BYTES = 2**26


class Interrupted(Exception):
    """A signal stopped the training after its state was saved."""

    def __init__(self, signum: int, directory: Path, objective: str) -> None:
        """Remember the signal: by convention the exit code is 128 + its number."""
        own = "" if objective == "elbo" else f" --objective {objective}"
        super().__init__(f"Stopped and saved. Go on with: python train.py --resume {directory}{own}")
        self.signum = signum


@dataclass(frozen=True)
class Training:
    """Everything about a training but its state."""

    config: Config
    vae: VAE
    objective: Objective
    tx: optax.GradientTransformation
    train: ImageData
    test: ImageData
    batch_size: int
    steps_per_epoch: int

    def train_step(self) -> Any:
        """The jitted step."""
        on_cpu = jax.default_backend() == "cpu"  # other devices take their share of a batch at once
        return make_train_step(
            self.vae,
            self.objective,
            self.tx,
            ema_decay=self.config.ema_decay,
            microbatch_size=self.config.microbatch_size if on_cpu else 0,
            mesh=self.mesh(),
        )

    def mesh(self) -> Mesh | None:
        """The devices that share a batch."""
        return data_mesh(self.batch_size, self.config.devices)

    def keys(self) -> tuple[Array, Array, Array]:
        """Keys of the first parameters, of the training and of the evaluations."""
        init_key, train_key, test_key = jax.random.split(jax.random.key(self.config.seed), 3)
        return init_key, train_key, test_key

    def fresh_state(self) -> TrainState:
        """The state before the first step."""
        init_key, train_key, _ = self.keys()
        shape = self.train.images.shape[1:]
        state = init_state(self.vae, self.tx, init_key, shape, ema=self.config.ema_decay > 0)
        return replace(state, key=train_key)

    def fresh_totals(self) -> Metrics:
        """Zeros, one for each metric that the train step reports."""
        batch = jax.ShapeDtypeStruct((self.batch_size, *self.train.images.shape[1:]), jnp.uint8)
        metrics = jax.eval_shape(self.train_step(), jax.eval_shape(self.fresh_state), batch)[1]
        return jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)


def checkpoint_items(state: TrainState, totals: Metrics) -> dict[str, Any]:
    """The trees of a checkpoint: those to sample with stand alone, the key is a function of the seed."""
    items = {
        "params": state.params,
        "optimizer": {"step": state.step, "opt_state": state.opt_state, "totals": totals},
    }
    return items if state.averaged_params is None else items | {"averaged_params": state.averaged_params}


def train(directory: Path, training: Training, state: TrainState, totals: Metrics) -> None:
    """Train from a state to the last epoch, reporting and saving into the directory.

    Raises:
        UserError: a metric is not finite.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    config, steps_per_epoch = training.config, training.steps_per_epoch
    mesh = training.mesh()
    repeated, split = shardings(mesh)
    train_steps = make_train_steps(training.train_step(), mesh)
    evaluate = make_evaluate(training.vae, training.objective, training.batch_size, mesh)
    *_, test_key = training.keys()
    resident = training.train.images.nbytes <= _RESIDENT_BYTES
    images = jax.device_put(training.train.images, repeated) if resident else training.train.images
    state, totals = jax.device_put((state, totals), repeated)
    first_step = int(state.step)
    clock = _Clock(read_metrics(directory))

    def epoch_means() -> dict[str, float]:
        steps = int(state.step) - epoch * steps_per_epoch
        return {name: float(total) / steps for name, total in totals.items()}

    report = Report(directory, config.epochs, steps_per_epoch, first_step)
    manager = checkpoint.open_checkpoints(directory / "checkpoints")
    with report, manager, _stop_signal() as stop:
        for epoch in range(first_step // steps_per_epoch, config.epochs):
            indices = epoch_indices(len(training.train.images), training.batch_size, config.seed, epoch)
            position = int(state.step) - epoch * steps_per_epoch
            for block, rows, start, end in _dispatches(images, indices, position, repeated, split):
                state, totals, last = train_steps(state, totals, block, rows, start, end)
                step = int(state.step)  # waits for the device
                _check_finite(last, step, config.learning_rate, manager.latest_step())
                clock.count((end - start) * training.batch_size)
                report.advance(step, epoch_means(), clock.images_per_second())
                if stop and step < (epoch + 1) * steps_per_epoch:
                    checkpoint.save(manager, step, checkpoint_items(state, totals), loss=math.inf)
                    raise Interrupted(stop[0], directory, config.objective)
            test = evaluate(state.best_params, training.test.images, test_key, state.step)
            record = {"epoch": epoch + 1, "step": step} | clock.finish_epoch()
            record |= {f"train_{name}": value for name, value in epoch_means().items()}
            record |= {f"test_{name}": value for name, value in test.items()}
            report.finish_epoch(record)
            totals = jax.tree.map(jnp.zeros_like, totals)
            checkpoint.save(manager, step, checkpoint_items(state, totals), loss=test["loss"])
            if stop and epoch + 1 < config.epochs:
                raise Interrupted(stop[0], directory, config.objective)


def _dispatches(
    images: Any, indices: Int[np.ndarray, "s b"], position: int, repeated: Sharding, split: Sharding
) -> Iterator[tuple[Array, Array, int, int]]:
    """Cut the rest of an epoch into dispatches (images, indices, start, stop).

    Images that are on the device stay there, and each dispatch takes about half a second. Others are gathered on the
    host in blocks, the next one while the device works on this one.
    """
    if isinstance(images, jax.Array):
        rows = jax.device_put(indices, split)
        steps = 1
        while position < len(indices):
            began = time.perf_counter()
            stop = min(position + steps, len(indices))
            yield images, rows, position, stop
            rhythm = _SECONDS_PER_DISPATCH / (time.perf_counter() - began)
            steps = max(1, int(steps * min(rhythm, 4.0)))
            position = stop
        return
    import grain

    batch_size = indices.shape[1]
    steps = max(1, _BLOCK_BYTES // (batch_size * images[0].nbytes))
    rows = jax.device_put(np.arange(steps * batch_size, dtype=np.int32).reshape(steps, batch_size), split)

    def gather(start: int) -> tuple[np.ndarray, int]:
        wanted = indices[start : start + steps]
        block = np.zeros((steps * batch_size, *images.shape[1:]), np.uint8)  # one shape, one compilation
        block[: wanted.size] = images[wanted.ravel()]
        return block, len(wanted)

    blocks = grain.MapDataset.source(range(position, len(indices), steps)).map(gather)
    for block, filled in blocks.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)):
        yield jax.device_put(block, repeated), rows, 0, filled


class _Clock:
    """Seconds of the whole run, and images per second without what the first dispatch compiles."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.began = time.perf_counter() - (records[-1]["seconds"] if records else 0.0)
        self.last = time.perf_counter()
        self.images, self.seconds, self.warm = 0, 0.0, False

    def count(self, images: int) -> None:
        now = time.perf_counter()
        if self.warm:
            self.images, self.seconds = self.images + images, self.seconds + now - self.last
        self.last, self.warm = now, True

    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    def finish_epoch(self) -> dict[str, float]:
        record = {"seconds": time.perf_counter() - self.began, "images_per_second": self.images_per_second()}
        self.images, self.seconds = 0, 0.0
        return record


def _check_finite(metrics: Metrics, step: int, learning_rate: float, saved_step: int | None) -> None:
    bad = [f"{name} is {float(value)}" for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        saved = "there is no checkpoint yet" if saved_step is None else f"the checkpoint of step {saved_step} is intact"
        raise UserError(
            f"step {step}: {', '.join(bad)}. Lower --learning-rate (now {learning_rate:g}) or bound the gradient by "
            f"--clip-norm 1; {saved}."
        )


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that SIGINT or SIGTERM puts its number into; a second one ends the program at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield received
        return

    def remember(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        say("Stopping after this dispatch, then saving; once more ends at once.")
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
