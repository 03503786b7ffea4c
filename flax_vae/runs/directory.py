"""A run directory: the one module that knows its files, reads them, and reports damage."""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_vae.batches import X, are_views, take
from flax_vae.data import absolute, one_hot
from flax_vae.data.arrays import open_npz, read_npy
from flax_vae.pytrees import by_name, from_names
from flax_vae.runs import checkpoints
from flax_vae.runs.config import Config
from flax_vae.runs.config_file import read_config, write_config
from flax_vae.runs.data import Data, data_checksums
from flax_vae.runs.members import differing
from flax_vae.runs.models import resume_command
from flax_vae.runs.records import Record, best_record, epochs_since_best, parse_object, parse_record
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically, write_json
from flax_vae.system.processes import run_in_first_process

_CONFIG, _LATEST = "config.json", "latest"
_VIEWS = "examples.npz"  # the examples, if they have several views
_PACKAGES = ("flax_vae", "jax", "jaxlib", "flax", "optax", "numpy", "safetensors")
_EXAMPLES = 64  # test images stored in the run, so that sampling needs no data set


class RunDirectory:
    """The files of a run.

    Attributes:
        path: the directory.
        config_file: the configuration, and the shape of the images; its presence marks a run directory.
        metrics_file: the metrics, one JSON object per finished epoch.
        checkpoints: the folder of the checkpoints.
        tensorboard: the folder of TensorBoard's events.
        pictures: the folder of the pictures.
        evaluation_file: the results of `flax-vae evaluate`.
        part_file: partial results of an unfinished evaluation.
        failure_file: the reason why a member of an ensemble diverged.
    """

    def __init__(self, path: Path) -> None:
        """Name the files of a directory, which need not exist yet."""
        self.path = path = path.expanduser()
        self.config_file = path / _CONFIG
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.pictures = path / "pictures"
        self.evaluation_file = path / "evaluation.json"
        self.part_file = path / "evaluation.part.npz"
        self.failure_file = path / "failed.txt"

    def __str__(self) -> str:
        """Return the path as it was given."""
        return str(self.path)

    @property
    def advice(self) -> str:
        """Advice after a training was cut short."""
        return f"Earlier checkpoints are intact: fix this, then resume with {self.resume_command}."

    @property
    def resume_command(self) -> str:
        """The command that resumes the run, or the runs that `fit_many` made here."""
        members = self.members()
        return resume_command(self, (members or [self])[0].config(), bool(members), self.stream())

    @property
    def how_to_resume(self) -> str:
        """Advice on how to resume the run, or how to start from its parameters if its stream cannot be resumed."""
        stream = self.stream()
        if stream is not None and not stream["is_resumable"]:
            run = str((self.members() or [self])[0])
            return f"Its stream cannot be resumed: start from the run by fit(init=load_run({run!r}), data=...)."
        return f"Resume with: {self.resume_command}"

    def stream(self) -> Record | None:
        """Return the description of the stream that the runs were trained on; None for other data."""
        with contextlib.suppress(UserError):  # there is no provenance
            return (self.members() or [self])[0].provenance().get("stream")
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock out other trainings on the first process's machine; the lock dies with that process.

        Raises:
            UserError: another process trains here.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            run_in_first_process(lock.acquire)
            yield
        except Timeout:
            raise UserError(f"{self}: another process trains here. Wait for it, or stop it.") from None
        finally:
            lock.release()

    def create(self, config: Config, data: Data, parts: Record) -> None:
        """Write provenance, a few test images with their labels, and the configuration.

        Args:
            config: the configuration.
            data: the images.
            parts: entries of the provenance: `model`, the description of a model of the user's own, else None;
                `objective`, the description of the objective, None for a loop of the user's own; `init`, the run and
                the step of the first parameters, or None; `stream`, the description of the stream, or None.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "provenance.json", _provenance(data) | parts)
        examples = take(data.test.x, slice(_EXAMPLES))
        if are_views(examples):
            np.savez(self.path / _VIEWS, allow_pickle=False, **by_name(examples, "examples"))
        else:
            np.save(self.path / "examples.npy", examples)
        if data.class_names and data.test.labels is not None:
            labels = data.test.labels[:_EXAMPLES].tolist()
            write_json(self.path / "labels.json", {"class_names": data.class_names, "examples": labels})
        # Written last, because it marks a run directory.
        write_config(self.config_file, _portable(config), data.train.shape)

    def change(self, config: Config) -> None:
        """Write the configuration of a resumed run, and add what it changes to the provenance."""
        old, shape = read_config(self.config_file)
        new = replace(_portable(config), devices=old.devices, fsdp=old.fsdp)
        before, after = asdict(old), asdict(new)
        if changed := {name: [before[name], value] for name, value in after.items() if value != before[name]}:
            provenance = self.provenance()
            entry = {"time": _now(), "epochs_before": len(self.metrics()), "settings": changed}
            write_json(self.path / "provenance.json", provenance | {"changes": [*provenance.get("changes", ()), entry]})
            write_config(self.config_file, new, shape)

    def point_latest(self) -> None:
        """Point the symlink `latest`, beside the directory, to it.

        The link is created under a name of this process and moved into place, since another run may start at the same
        time. The link is a convenience: a run continues if it cannot be created, and one line says so.
        """
        directory = self.path.resolve()
        latest, link = directory.with_name(_LATEST), directory.with_name(f".{_LATEST}-{os.getpid()}")
        if directory == latest:
            return
        if latest.exists() and not latest.is_symlink():
            log(f"{latest} is not a link, and stays what it is: this run is {self}.")
            return
        try:
            link.symlink_to(directory.name, target_is_directory=True)
            link.replace(latest)
        except OSError as error:
            log(f"{latest} cannot be made a link to this run ({error.strerror}): it is {self}.")

    def config(self) -> Config:
        """Read the configuration."""
        return read_config(self.config_file)[0]

    def members(self) -> "list[RunDirectory]":
        """Return the runs that `fit_many` made in this directory, in the order of their configurations."""
        runs = [RunDirectory(path.parent) for path in self.path.glob(f"*/{_CONFIG}") if path.parent.name != _LATEST]
        settings = dict(zip(runs, differing([run.config() for run in runs]), strict=True))
        return sorted(runs, key=lambda run: [*settings[run].values()])

    def examples(self) -> X:
        """Read a few test examples: uint8 images "n h w c", vectors "n v", or several views."""

        def read_views(path: Path) -> X:
            with open_npz(path) as archive:
                return from_names(dict(archive), "examples")

        if (self.path / _VIEWS).exists():
            return self._read(_VIEWS, read_views)
        return self._read("examples.npy", lambda path: np.array(read_npy(path)))

    def labels(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Read the classes of a conditional model, and the labels of the examples."""

        def read(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
            content = json.loads(path.read_text())
            names, labels = tuple(content["class_names"]), np.asarray(content["examples"], np.int32)
            one_hot(labels, len(names))  # raises unless they are labels of these classes
            return names, labels

        return self._read("labels.json", read)

    def data_checksums(self) -> dict[str, str]:
        """Read the checksums of the training and test images."""
        return self._read("provenance.json", lambda path: dict(parse_object(path.read_text())["data"]))

    def random_numbers(self) -> str:
        """Return JAX's implementation of the keys of the training, such as "threefry2x32"."""
        return str(self.provenance().get("random_numbers", "threefry2x32"))  # what versions without it had

    def provenance(self) -> Record:
        """Read the origin of the run."""
        return self._read("provenance.json", lambda path: parse_object(path.read_text()))

    def _read(self, name: str, read: Callable[[Path], Any]) -> Any:
        try:
            return read(self.path / name)
        except Exception as error:  # reading a damaged or foreign file may raise anything
            raise UserError(f"{self.path / name} cannot be read ({error}): the run is damaged.") from None

    def metrics(self) -> list[Record]:
        """Read the finished epochs, in order; a truncated last line is ignored.

        Raises:
            UserError: another line is not the record of an epoch.
        """
        if not self.metrics_file.exists():
            return []
        # The last line is truncated, or empty.
        return self._read("metrics.jsonl", lambda path: [*map(parse_record, path.read_text().split("\n")[:-1])])

    def keep_metrics_until(self, step: int) -> None:
        """Drop the records after the checkpoint of `step`, so that a resumed run repeats no epoch."""
        records = [record for record in self.metrics() if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self.metrics_file, lambda part: part.write_text(text))

    def best_step(self) -> int | None:
        """Return the step of the best epoch so far."""
        best = best_record(self.metrics(), self.config().monitored)
        return None if best is None else best["step"]

    def restore_best(self, items: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the step and content of the best undamaged checkpoint; warns if it is not the best one.

        A training that runs at the same time may add and delete checkpoints.

        Raises:
            UserError: there is no undamaged checkpoint, or it belongs to another model.
        """
        damaged = set[int]()
        while True:
            best, steps = self.best_step(), set(checkpoints.saved_steps(self.checkpoints)) - damaged
            if not steps:
                break
            step = best if best in steps else max(steps)
            try:
                trees = checkpoints.restore(self.checkpoints, step, items)
            except checkpoints.Damaged as error:
                damaged.add(step)
                if (self.checkpoints / str(step)).exists():  # otherwise a concurrent training has replaced it
                    log(f"WARNING: {error}")
                continue
            if step != best:
                reason = "no epoch is finished" if best is None else f"the best one, step {best}, is missing"
                log(f"WARNING: {self}: the parameters are from the checkpoint of step {step}: {reason}.")
            return step, trees
        if damaged:
            raise UserError(f"{self}: all checkpoints are damaged.")
        raise UserError(f"{self} has no checkpoint, since no epoch is finished: run {self.resume_command}.")

    def stopped_early(self, config: Config) -> bool:
        """Return True if early stopping has ended the training."""
        return 0 < config.early_stopping <= epochs_since_best(self.metrics(), config.monitored)

    def evaluation(self, step: int) -> Record | None:
        """Return the results of `flax-vae evaluate` for the parameters of a step, or None."""
        if not self.evaluation_file.exists():
            return None
        record = self._read(self.evaluation_file.name, lambda path: parse_object(path.read_text()))
        return record if record.get("step") == step else None

    def write_test(self, record: Record) -> None:
        """Write the metrics of the test set, if a validation set selected the checkpoint."""
        write_json(self.path / "test.json", record)

    def write_evaluation(self, record: Record) -> None:
        """Write the results of an evaluation."""
        write_json(self.evaluation_file, record)


def _portable(config: Config) -> Config:
    """Return the configuration with absolute paths."""
    data_dir = config.data_dir and str(Path(config.data_dir).expanduser().absolute())
    return replace(config, dataset=absolute(config.dataset), data_dir=data_dir)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _provenance(data: Data) -> Record:
    """Return the command, time, data, device and versions."""
    device = jax.devices()[0]
    return {
        "command": sys.argv,
        "time": _now(),
        "data": data_checksums(data),
        "random_numbers": jax.config.jax_default_prng_impl,  # type: ignore[attr-defined]
        "sources": {"train": data.train.provenance, "test": data.test.provenance},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
    }


def free_directory(config: Config, out: str | Path | None) -> RunDirectory:
    """Return the directory of a new run, which is empty or does not exist yet; by default `runs/<preset>-<time>`.

    Raises:
        UserError: the directory is not empty.
    """
    if jax.process_count() > 1 and out is None:
        raise UserError("`out` is required if several processes train, and must be the same for all of them.")
    name = config.preset.partition("(")[0].rpartition(":")[2]
    directory = RunDirectory(Path(out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    advice = ""
    with contextlib.suppress(UserError):  # the directory does not hold a run
        advice = f", or resume its run with {directory.resume_command}"
    run_in_first_process(refuse_used, directory.path, advice)
    return directory


def refuse_used(path: Path, advice: str = "") -> None:
    """Raise UserError unless a path does not exist yet or is an empty directory."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to something that does not exist: remove it, or choose another directory.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is not empty: choose another directory{advice}.")
