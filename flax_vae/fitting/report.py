"""Reporting: the start, a live bar or plain lines, metrics.jsonl, TensorBoard events, the summary of an ensemble."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import jax
import numpy as np

from flax_vae.batches import shape_text
from flax_vae.data import example_noun, examples_noun, is_binary
from flax_vae.fitting.lines import EpochLines, deviation, duration, mean_and_deviation
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
_SECONDS_WITHOUT_A_LINE = 30.0  # where there is no bar


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
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    several, each = (f"{len(members)} x ", " each") if len(members) > 1 else ("", "")
    log(f"Model:     {several}{preset}, {parameters:,} parameters{each}")
    objective, *others = dict.fromkeys(member.training.config.name_of("objective") for member in members)
    objective += f" and {len(others)} more" if others else ""
    levels = getattr(getattr(training.model, "likelihood", None), "pixel_levels", None)
    values = "grey" if data.train.kind == "images" else "continuous"
    no_density = levels == 2 and not is_binary(data.test.x)
    remark = f"; {values} values by cross-entropy (not a density)" if no_density else ""
    log(f"Loss:      {objective}, nats per {example_noun(data.train.kind)}{remark}")
    devices, kind = training.mesh(len(members)).size, jax.devices()[0].device_kind
    epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
    steps = f"{training.total_steps:,} steps of {training.batch_size} {examples_noun(data.train.kind)} in {epochs}"
    resumed = f", from step {first_step:,}" if first_step else ""
    log(f"Training:  {steps}{resumed}, on {f'{devices} x ' if devices > 1 else ''}{kind}")
    log(f"Directory: {directory}")
    if training.total_steps < _FEW_STEPS:
        log(f"WARNING: a model hardly learns in {training.total_steps} steps. Train for more epochs.")


def _log_data(config: Config, data: Data) -> None:
    """Log the examples, and warn of what they rule out, or of columns that carry no information."""
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    counts = " + ".join(f"{len(part):,} {name}" for name, part in parts.items() if part)
    sources = dict.fromkeys(part.provenance["source"] for part in (data.train, data.test))
    if data.feed is not None:
        counts = f"batches of {len(data.train):,}" + (f" + {len(data.test):,} test" if data.held_out else "")
        sources = {f"{data.feed.steps_per_epoch:,} {data.train.provenance['source']} are an epoch": None}
    resized = f", resized ({config.resize})" if config.image_size else ""
    log(f"Data:      {counts} {examples_noun(data.train.kind)} of {shape_text(data.train.shape)}{resized}")
    for source in sources:
        log(f"           {source}")
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
        self.directories = [member.directory for member in members]
        self.epochs, self.steps_per_epoch = training.config.epochs, training.steps_per_epoch
        seeds = max(map(len, self.members.values()))
        self.lines = EpochLines(self.epochs, training.config.monitored, seeds, [*self.members], self.speed_unit)
        self.has_header, self.last_line = False, time.monotonic()
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
        losses = [means["loss"] for means in metrics.values()]  # none if the last member has just diverged
        speed = self.clock.images_per_second()
        shown = [f"loss {mean(losses):.2f}" if losses else "", f"{speed:,.0f} {self.speed_unit}" if speed else ""]
        terms = "  ".join(filter(None, shown))
        epoch = min((step - 1) // self.steps_per_epoch + 1, self.epochs)
        self.bar.update(self.task, completed=step, epoch=epoch, terms=terms)
        if self.logs and not self.console.is_terminal and time.monotonic() - self.last_line > _SECONDS_WITHOUT_A_LINE:
            left = self.bar.tasks[0].time_remaining
            remaining = "" if left is None else f"  {duration(float(left))} left"
            log(f"epoch {epoch}/{self.epochs}  {self.bar.tasks[0].percentage:.0f} %  {terms}{remaining}")
            self.last_line = time.monotonic()

    def finish_epoch(self, records: Mapping[int, Record]) -> None:
        """Write the epoch's record of each member to its files, and print a line for each label."""
        if not self.logs:
            return
        for member, record in records.items():
            self.logs[member].write(record)
        if records and not self.has_header:
            self._print(self.lines.header(next(iter(records.values()))))
            self.has_header = True
        for label, members in self.members.items():
            if group := {member: records[member] for member in members if member in records}:
                best = all(self.directories[member].best_step() == group[member]["step"] for member in group)
                self._print(self.lines.line([*group.values()], label, len(members), best))

    def _print(self, line: str) -> None:
        """Print a line above the bar; a file gets it whole, and a terminal breaks it between words."""
        self.console.print(line, highlight=False, soft_wrap=not self.console.is_terminal)
        self.console.file.flush()
        self.last_line = time.monotonic()


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
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:3.0f} %  {task.fields[terms]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        console=console,
        disable=not visible,
        transient=True,
    )


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
    spread = {name: {"mean": float(np.mean(v)), "sd": deviation(v)} for name, v in values.items()}
    return row | spread, values
