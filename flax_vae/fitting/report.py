"""Reporting: the start, a live bar or plain lines, metrics.jsonl, TensorBoard events, the summary of an ensemble."""

import json
import os
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import jax
import numpy as np

from flax_vae.batches import shape_text
from flax_vae.data import example_noun, examples_noun, is_binary
from flax_vae.fitting.members import Member
from flax_vae.fitting.timing import Clock
from flax_vae.pytrees import by_name
from flax_vae.runs.config import Config
from flax_vae.runs.data import Data
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.members import differing, members_by_label
from flax_vae.runs.records import Record, held_out_set
from flax_vae.system.console import log, print_table, stdout_console
from flax_vae.system.files import write_json
from flax_vae.system.processes import is_first_process

_FEW_STEPS = 36


def log_start(directory: RunDirectory, members: Sequence[Member], first_step: int) -> None:
    """Log what is trained, on what and where, before the first step.

    Args:
        directory: the directory of the run, or of all members.
        members: the trainings.
        first_step: the step at which the training starts, above 0 if a run is resumed.
    """
    if not is_first_process():
        return
    training, state = members[0].training, members[0].state
    config, data = training.config, training.data
    _log_data(config, data)
    preset = config.name_of("preset")
    objective, *others = dict.fromkeys(member.training.config.name_of("objective") for member in members)
    objective += f" and {len(others)} more" if others else ""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    several = f"{len(members)} models, each " if len(members) > 1 else ""
    log(f"Model: {several}{preset} with {parameters:,} parameters; objective {objective}.")
    devices, kind = training.mesh(len(members)).size, jax.devices()[0].device_kind
    epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
    steps = f"{training.total_steps:,} steps of {training.batch_size} {examples_noun(data.train.kind)} in {epochs}"
    resumed = f", from step {first_step:,}" if first_step else ""
    log(f"Training: {steps}{resumed}, on {f'{devices} x ' if devices > 1 else ''}{kind}, in {directory}.")
    if training.total_steps < _FEW_STEPS:
        log(f"WARNING: a model hardly learns in {training.total_steps} steps. Train for more epochs.")
    levels = getattr(getattr(training.model, "likelihood", None), "pixel_levels", None)
    if levels == 2 and not is_binary(data.test.x):
        log(
            f"Bernoulli likelihood on {'grey' if data.train.kind == 'images' else 'continuous'} values: the loss is "
            f"their cross-entropy, in nats per {example_noun(data.train.kind)}. It trains well, but it is not a "
            "density; compare it only with the same loss, or choose another likelihood."
        )


def _log_data(config: Config, data: Data) -> None:
    """Log the examples, and warn of what they rule out, or of columns that carry no information."""
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    counts = " + ".join(f"{len(part):,} {name}" for name, part in parts.items() if part)
    sources = " and ".join(dict.fromkeys(part.provenance["source"] for part in (data.train, data.test)))
    if data.feed is not None:
        counts = f"batches of {len(data.train):,}" + (f" + {len(data.test):,} test" if data.held_out else "")
        sources = f"{data.feed.steps_per_epoch:,} {data.train.provenance['source']} are an epoch"
    resized = f", resized ({config.resize})" if config.image_size else ""
    log(f"Data: {counts} {examples_noun(data.train.kind)} of {shape_text(data.train.shape)}{resized}; {sources}.")
    if data.feed is not None and not data.feed.is_resumable:
        log("`data` is a plain iterable, whose position cannot be saved: this training cannot be resumed.")
    if data.held_out is None:
        log("No held-out examples: nothing is evaluated, and the best checkpoint is that of the lowest training loss.")
    for name, view in by_name(data.train.x).items() if data.feed is None else ():
        if len(view.shape) == 2:
            _warn_of_columns(np.asarray(view), f" of view {name}" if name else "")


def _warn_of_columns(x: Any, where: str) -> None:
    """Warn of columns of vectors that have no observed value, or are constant."""
    observed = ~np.isnan(x)
    low, high = np.where(observed, x, np.inf).min(0), np.where(observed, x, -np.inf).max(0)
    for columns, what in ((~observed.any(0), "columns without an observed value"), (low == high, "constant columns")):
        if len(numbers := np.flatnonzero(columns)):
            more = f" and {len(numbers) - 5:,} more" if len(numbers) > 5 else ""
            log(f"WARNING: {what}{where}: {', '.join(map(str, numbers[:5]))}{more}; leave them out.")


class Report:
    """The reporting of a training, or of several in one program, as a context manager.

    Attributes:
        clock: measures the time that the records state.
    """

    def __init__(self, members: Sequence[Member], furthest: Member) -> None:
        """Start the clock, and open the files of each member and the one bar; only the first process reports.

        Args:
            members: the trainings; those that differ in the seed only are reported together.
            furthest: a member at the step at which the training starts, above 0 if a run is resumed.
        """
        training, first_step, records = members[0].training, int(furthest.state.step), furthest.directory.metrics()
        self.clock = Clock(records[-1]["seconds"] if records else 0.0)
        self.speed_unit = f"{example_noun(training.data.train.kind)}s/s"
        self.members = members_by_label([member.training.config for member in members])
        self.directories, self.monitor = [member.directory for member in members], training.config.monitored
        self.epochs, self.steps_per_epoch = training.config.epochs, training.steps_per_epoch
        self.logs = [_RunLog(member.directory, first_step) for member in members if is_first_process()]
        self.console = stdout_console()
        self.bar = _progress_bar(self.console, visible=bool(self.logs) and self.console.is_terminal)
        epoch = first_step // self.steps_per_epoch + 1
        self.task = self.bar.add_task(
            "", total=training.total_steps, completed=first_step, epoch=epoch, epochs=self.epochs, terms="compiling"
        )

    def __enter__(self) -> "Report":
        """Show the bar."""
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar and close the files."""
        self.bar.stop()
        for run_log in self.logs:
            run_log.close()

    def advance(self, step: int, metrics: Mapping[int, dict[str, float]], images: int) -> None:
        """Move the bar to a step, with the members' average of the means of the epoch so far.

        Args:
            step: the last step of a dispatch.
            metrics: the means of each member.
            images: the number of images of the dispatch.
        """
        self.clock.count(images)
        first = next(iter(metrics.values()), {})  # empty if the last member has just diverged
        names = [name for name in ("loss", "elbo", "rate", "distortion") if name in first]
        shown = [f"{name} {mean(m[name] for m in metrics.values()):.2f}" for name in names]
        terms = "  ".join([*shown, f"{self.clock.images_per_second():,.0f} {self.speed_unit}"])
        epoch = min((step - 1) // self.steps_per_epoch + 1, self.epochs)
        self.bar.update(self.task, completed=step, epoch=epoch, terms=terms)

    def finish_epoch(self, records: Mapping[int, Record]) -> None:
        """Write the epoch's record of each member to its files, and print a line for each label."""
        if not self.logs:
            return
        for member, record in records.items():
            self.logs[member].write(record)
        for label, members in self.members.items():
            if group := {member: records[member] for member in members if member in records}:
                best = all(self.directories[member].best_step() == group[member]["step"] for member in group)
                line = epoch_line([*group.values()], label, self.epochs, self.monitor, best, self.speed_unit)
                self.console.print(line, highlight=False, soft_wrap=True)
                self.console.file.flush()


class _RunLog:
    """The metrics.jsonl and the TensorBoard events of a run."""

    def __init__(self, directory: RunDirectory, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self.metrics = directory.metrics_file.open("a")
        self.events = SummaryWriter(str(directory.tensorboard), purge_step=first_step or None)

    def write(self, record: Record) -> None:
        self.metrics.write(json.dumps(record) + "\n")
        self.metrics.flush()
        os.fsync(self.metrics.fileno())
        for name, value in record.items():
            if name.startswith(("train_", "validation_", "test_")):
                part, _, term = name.partition("_")
                self.events.add_scalar(f"{term}/{part}", value, record["step"])
        self.events.add_scalar("data_wait", record["data_wait"], record["step"])
        self.events.flush()

    def close(self) -> None:
        self.metrics.close()
        self.events.close()


def _progress_bar(console: Any, visible: bool) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  {task.fields[terms]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not visible,
        transient=True,
    )


def epoch_line(
    records: Sequence[Record], label: str, epochs: int, monitor: str, best: bool, speed_unit: str = "images/s"
) -> str:
    """Return the line of an epoch: metrics, or their mean ± standard deviation over the seeds of a label.

    Args:
        records: the epoch of each seed.
        label: what distinguishes the seeds from other members.
        epochs: the number of epochs of the training.
        monitor: the metric that chooses the best epoch.
        best: True if this epoch is the best so far.
        speed_unit: the unit of the speed.
    """
    first, held_out = records[0], held_out_set(records[0])
    names = [name for name in first if name.startswith(("train_", f"{held_out}_"))]
    value = {name: mean_and_deviation([record[name] for record in records]) for name in names}
    terms = {name: value.get(f"{held_out}_{name}") for name in ("rate", "distortion")}
    shown = ", ".join(f"{name} {text}" for name, text in terms.items() if text)
    skipped = mean(record["train_skipped"] for record in records)
    parts = [
        f"epoch {first['epoch']:>{len(str(epochs))}}/{epochs}",
        label,
        f"train loss {value['train_loss']}" if held_out != "train" else "",
        f"{held_out} loss {value[f'{held_out}_loss']}" + (f" ({shown})" if shown else ""),
        f"{held_out} {monitor} {value[f'{held_out}_{monitor}']}" if monitor not in ("loss", *terms) else "",
        "best" if best else "",
        f"{len(records)} seeds" if len(records) > 1 else "",
        f"{skipped:.2%} of the steps skipped" if skipped else "",
        f"{first['images_per_second']:,.0f} {speed_unit}",
        f"{first['seconds']:.0f} s",
    ]
    return "  ".join(filter(None, parts))


def mean_and_deviation(values: Sequence[float]) -> str:
    """Format the mean of values, and for several the sample standard deviation: "262.10 ± 0.35"."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def write_summary(directory: RunDirectory) -> None:
    """Print the mean and standard deviation of metrics over the seeds of an ensemble, and write `summary.json`.

    The metrics are those of the last epoch, on the validation set if there is one, else on the test set.
    """
    from rich.table import Table

    runs = directory.members()
    members = [(run.config(), None if run.failure_file.exists() else run.metrics()[-1]) for run in runs]
    records = [record for _, record in members if record]
    held_out = held_out_set(records[0])
    names = [f"{held_out}_{term}" for term in ("loss", "rate", "distortion")]
    columns = [name for name in names if name in records[0]]
    table, rows = Table(box=None, pad_edge=False), []
    for column in ("", "seeds", "failed", *(name.replace("_", " ") for name in columns)):
        table.add_column(column, justify="left" if not column else "right")
    configs = [config for config, _ in members]
    swept = differing(configs)
    for label, group in members_by_label(configs).items():
        row, values = _row([members[i] for i in group], swept[group[0]], f"{held_out}_")
        rows.append(row)
        numbers = [mean_and_deviation(values[name]) if values else "" for name in columns]
        table.add_row(label, str(len(row["seeds"])), str(len(row["failed"])), *numbers)
    write_json(directory.path / "summary.json", rows)
    print_table(table)


def _row(
    group: Sequence[tuple[Config, Record | None]], swept: Mapping[str, float | int], prefix: str
) -> tuple[Record, dict[str, list[float]]]:
    """Return the row of members that differ in the seed only, and the values of their metrics that have a prefix.

    Args:
        group: the configuration of each member, with its last record, or None if it diverged.
        swept: the settings in which the members of the ensemble differ, by name, with their values in this group.
        prefix: the prefix of the metrics, such as "test_".
    """
    first = group[0][0]
    seeds, failed = ([config.seed for config, record in group if bool(record) == ok] for ok in (True, False))
    records = [record for _, record in group if record]
    names = [name for name in records[0] if name.startswith(prefix)] if records else []
    values = {name: [record[name] for record in records] for name in names}
    settings = {"learning_rate": first.learning_rate, "beta": first.beta, **swept}
    settings.pop("seed", None)
    row = {**settings, "seeds": seeds, "failed": failed}
    spread = {name: {"mean": mean(v), "sd": stdev(v) if len(v) > 1 else None} for name, v in values.items()}
    return row | spread, values
