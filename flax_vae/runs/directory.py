"""A run directory: the one place that knows its files, reads them, and says which of them is damaged."""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from flax_vae.data import absolute, one_hot
from flax_vae.data.arrays import read_npy
from flax_vae.nn.layers import ImageShape
from flax_vae.runs import checkpoints
from flax_vae.runs.config import SWEPT, Config
from flax_vae.runs.config_file import read_config, write_config
from flax_vae.runs.data import Data
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically, write_json
from flax_vae.system.processes import run_in_first_process

Record = dict[str, Any]  # an epoch, as a line of metrics.jsonl
Content = TypeVar("Content")
_CONFIG, _LATEST = "config.json", "latest"
_EXAMPLES = 64  # test images kept in the run, so that sampling needs no data set
_PACKAGES = ("flax_vae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class RunDirectory:
    """The files of a run."""

    path: Path

    def __str__(self) -> str:
        """The path, as it was given."""
        return str(self.path)

    @property
    def way_on(self) -> str:
        """What to do after a training ended before its end, in words."""
        return f"Checkpoints are whole: mend that, and go on by flax-vae train --resume {self}."

    @property
    def pictures(self) -> Path:
        """The folder of the pictures."""
        return self.path / "pictures"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        """One JSON object for each finished epoch."""
        return self.path / "metrics.jsonl"

    @property
    def evaluation_file(self) -> Path:
        """What `flax-vae evaluate` measured."""
        return self.path / "evaluation.json"

    @property
    def part_file(self) -> Path:
        """What an evaluation that has not ended has found."""
        return self.path / "evaluation.part.npz"

    @property
    def failure_file(self) -> Path:
        """Why a member of an ensemble diverged."""
        return self.path / "failed.txt"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out, on the machine of the first process; the lock goes with that.

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

    def create(self, config: Config, data: Data, objective: str) -> None:
        """Write provenance, a few test images with their labels, and the configuration."""
        self.path.mkdir(parents=True, exist_ok=True)
        device = jax.devices()[0]
        provenance = {
            "command": sys.argv,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "data": data_sums(data),
            "sources": {"train": data.train.provenance, "test": data.test.provenance},
            "objective": objective,
            "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
            "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        }
        write_json(self.path / "provenance.json", provenance)
        np.save(self.path / "examples.npy", data.test.images[:_EXAMPLES])
        if data.class_names and data.test.labels is not None:
            labels = data.test.labels[:_EXAMPLES].tolist()
            write_json(self.path / "labels.json", {"class_names": data.class_names, "examples": labels})
        data_dir = config.data_dir and str(Path(config.data_dir).expanduser().absolute())
        anywhere = replace(config, dataset=absolute(config.dataset), data_dir=data_dir)
        write_config(self.path / _CONFIG, anywhere, data.train.images.shape[1:])  # last: it makes this a run

    def point_latest(self) -> None:
        """Let `latest`, beside the directory, be another name of it.

        The link is made under a name of this process and moved into place, since another run may start at the same
        time. It is a convenience: where it cannot be made, the run goes on.
        """
        directory = self.path.resolve()
        latest, mine = directory.with_name(_LATEST), directory.with_name(f".{_LATEST}-{os.getpid()}")
        if directory == latest or (latest.exists() and not latest.is_symlink()):
            return
        with contextlib.suppress(OSError):
            mine.symlink_to(directory.name, target_is_directory=True)
            mine.replace(latest)

    def config(self) -> tuple[Config, ImageShape]:
        """The configuration, and the shape of the images."""
        return read_config(self.path / _CONFIG)

    def members(self) -> "list[RunDirectory]":
        """The runs that `fit_many` made within this directory, in the order of their configurations."""
        found = [RunDirectory(path.parent) for path in self.path.glob(f"*/{_CONFIG}") if path.parent.name != _LATEST]
        configs = {run: run.config()[0] for run in found}
        return sorted(found, key=lambda run: [getattr(configs[run], name) or 0 for name in SWEPT])

    def examples(self) -> np.ndarray:
        """A few test images, uint8 "n h w c"."""
        return self._read("examples.npy", lambda path: np.array(read_npy(path)))

    def labels(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The classes of a conditional model, and the labels of the examples."""

        def read(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
            content = json.loads(path.read_text())
            names, labels = tuple(content["class_names"]), np.asarray(content["examples"], np.int32)
            one_hot(labels, len(names))  # raises if they are not labels of these
            return names, labels

        return self._read("labels.json", read)

    def data_sums(self) -> dict[str, str]:
        """Checksums of the images that the run was trained and tested on."""
        return self._read("provenance.json", lambda path: dict(_object(path.read_text())["data"]))

    def check_data(self, data: Data) -> None:
        """Raise UserError unless these are the images that the run was trained on."""
        if data_sums(data) != self.data_sums():
            raise UserError(f"{data.train.name} is not the data that {self} was trained on; see its provenance.json.")

    def _read(self, name: str, read: Callable[[Path], Content]) -> Content:
        try:
            return read(self.path / name)
        except Exception as error:  # a damaged file, or a stranger's, may make its reader raise anything
            raise UserError(f"{self.path / name} cannot be read ({error}): the run is damaged.") from None

    def metrics(self) -> list[Record]:
        """The finished epochs, in order; a last line that was cut off is left out.

        Raises:
            UserError: any other line is not the record of an epoch.
        """
        if not self.metrics_file.exists():
            return []

        def read(path: Path) -> list[Record]:
            *lines, rest = path.read_text().split("\n")
            del rest  # what a kill left of a line, or nothing
            return [_record(line) for line in lines]

        return self._read(self.metrics_file.name, read)

    def keep_metrics_until(self, step: int) -> None:
        """Drop what was written after the checkpoint of `step`, so that a resumed run repeats no epoch."""
        records = [record for record in self.metrics() if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in records)
        write_atomically(self.metrics_file, lambda part: part.write_text(text))

    def best_step(self) -> int | None:
        """The step of the best epoch so far."""
        best = best_record(self.metrics())
        return None if best is None else best["step"]

    def restore_best(self, items: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """The step of the best checkpoint that is not damaged, and what it holds; another than the best is said.

        Raises:
            UserError: there is none, or it is of another model.
        """
        tried = set[int]()
        while True:
            best, steps = self.best_step(), checkpoints.saved_steps(self.checkpoints)
            step = max(set(steps) - tried, key=lambda step: (step == best, step), default=None)
            if step is None and tried:
                raise UserError(f"{self}: all of its checkpoints are damaged.")
            if step is None:
                raise UserError(f"{self} holds no checkpoint: no epoch is finished; go on by --resume {self}.")
            try:
                found = checkpoints.restore(self.checkpoints, step, items)
            except checkpoints.Damaged as damaged:
                tried.add(step)
                if (self.checkpoints / str(step)).exists():  # else a training beside this has replaced it
                    log(f"WARNING: {damaged}")
                continue
            if step != best:
                missing = "no epoch is finished" if best is None else f"that of the best, step {best}, is not there"
                log(f"WARNING: {self}: the parameters are those of its checkpoint of step {step}: {missing}.")
            return step, found

    def stale_epochs(self) -> int:
        """Epochs since the best one."""
        records = self.metrics()
        best = best_record(records)
        return records[-1]["epoch"] - best["epoch"] if best else 0

    def stopped_early(self, config: Config) -> bool:
        """Whether its loss has not improved for as many epochs as it waits for."""
        return 0 < config.early_stopping <= self.stale_epochs()

    def evaluation(self, step: int) -> Record | None:
        """What `flax-vae evaluate` measured of the parameters of a step, or None."""
        if not self.evaluation_file.exists():
            return None
        found = self._read(self.evaluation_file.name, lambda path: _object(path.read_text()))
        return found if found.get("step") == step else None

    def write_test(self, result: Mapping[str, Any]) -> None:
        """Keep the metrics of the test set, where a validation set chose the checkpoint."""
        write_json(self.path / "test.json", result)

    def write_evaluation(self, result: Mapping[str, Any]) -> None:
        """Keep what was measured."""
        write_json(self.evaluation_file, result)


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    return found


def _record(line: str) -> Record:
    """A line of metrics.jsonl."""
    found = _object(line)
    whole, loss = (found["epoch"], found["step"]), found[f"{held_out_set(found)}_loss"]
    if not all(type(number) is int for number in whole) or not isinstance(loss, float):
        raise ValueError(f"no record of an epoch: {line[:80]}")
    return found


def held_out_set(record: Mapping[str, Any]) -> str:
    """The set whose loss chooses the best epoch: "validation" where the run has one, else "test"."""
    return "validation" if "validation_loss" in record else "test"


def best_record(records: Sequence[Record]) -> Record | None:
    """The epoch with the least loss on the set that chooses, the last of several; None without any."""
    return min(reversed(records), key=lambda record: record[f"{held_out_set(record)}_loss"], default=None)


def data_sums(data: Data) -> dict[str, str]:
    """SHA-256 checksums of the images before any share is held out: what identifies the data."""
    return {"train": data.train.provenance["sha256"], "test": data.test.provenance["sha256"]}


def free_directory(config: Config, out: str | Path | None) -> RunDirectory:
    """A directory that does not exist yet or is empty; by default `runs/<preset>-<time>`.

    Raises:
        UserError: it holds something.
    """
    if jax.process_count() > 1 and out is None:
        raise UserError("--out DIR is needed where several processes train, the same for all of them.")
    name = config.preset.partition("(")[0]
    path = Path(out or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    run_in_first_process(partial(refuse_used, path, ", or resume a run by --resume DIR"))
    return RunDirectory(path)


def refuse_used(path: Path, way_out: str = "", name: str = "--out") -> None:
    """Raise UserError unless a path does not exist yet or is an empty directory."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to something that does not exist: remove it, or name another {name}.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} already holds something: name another {name}{way_out}.")
