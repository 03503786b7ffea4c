"""What a training reports: a live bar or plain lines, metrics.jsonl, and TensorBoard events."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from flax_vae.runs.config import Config, settings
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.records import Record, held_out_set
from flax_vae.system.console import print_table, stdout_console
from flax_vae.system.files import write_json


def mean_and_deviation(values: Sequence[float]) -> str:
    """ "262.10 ± 0.35": the mean, and the sample standard deviation where there are several."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def write_summary(directory: Path, members: Sequence[tuple[Config, Record | None]]) -> None:
    """Print and write as `summary.json` the mean and standard deviation over the seeds.

    They are of the test metrics, or of those of the validation set where there is one.

    Args:
        directory: where to write.
        members: each configuration with the record of its last epoch, None where it diverged.
    """
    from rich.table import Table

    some = next(record for _, record in members if record)
    held_out = held_out_set(some)
    names = [name for name in some if name.startswith(f"{held_out}_")]
    table, rows = Table(box=None, pad_edge=False), []
    shown = [name for name in (f"{held_out}_{term}" for term in ("loss", "rate", "distortion")) if name in names]
    for column in ("", "seeds", "failed", *(name.replace("_", " ") for name in shown)):
        table.add_column(column, justify="left" if not column else "right")
    labels = settings([config for config, _ in members])
    for label in dict.fromkeys(labels):
        group = [member for member, own in zip(members, labels, strict=True) if own == label]
        seeds, failed = ([config.seed for config, record in group if bool(record) == ok] for ok in (True, False))
        row = {"learning_rate": group[0][0].learning_rate, "beta": group[0][0].beta, "seeds": seeds, "failed": failed}
        values = {name: [record[name] for _, record in group if record] for name in names} if seeds else {}
        spread = {name: {"mean": mean(v), "sd": stdev(v) if len(v) > 1 else None} for name, v in values.items()}
        rows.append(row | spread)
        numbers = [mean_and_deviation(values[name]) if seeds else "" for name in shown]
        table.add_row(label, str(len(seeds)), str(len(failed)), *numbers)
    write_json(directory / "summary.json", rows)
    print_table(table)


class Report:
    """The reporting of a training, or of several in one program, as a context manager."""

    def __init__(
        self,
        directories: Sequence[RunDirectory],
        settings: Sequence[str],
        epochs: int,
        steps_per_epoch: int,
        first_step: int,
    ) -> None:
        """Open the files of each directory and the one bar.

        Args:
            directories: the run directory of each member; none in a process that is silent.
            settings: what a member has in common with the seeds beside it, which are reported together.
            first_step: above 0 where a run is resumed.
        """
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from tensorboardX import SummaryWriter

        self.settings, self.epochs, self.steps_per_epoch = settings, epochs, steps_per_epoch
        self.metrics = [directory.metrics_file.open("a") for directory in directories]
        self.events = [SummaryWriter(str(d.tensorboard), purge_step=first_step or None) for d in directories]
        self.console = stdout_console()
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %  {task.fields[terms]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not (directories and self.console.is_terminal),
            transient=True,
        )
        self.task = self.progress.add_task(
            "", total=epochs * steps_per_epoch, completed=first_step, epoch=first_step // steps_per_epoch + 1,
            epochs=epochs, terms="compiling",
        )  # fmt: skip

    def __enter__(self) -> "Report":
        """Show the bar."""
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar away and close the files."""
        self.progress.stop()
        for file in (*self.metrics, *self.events):
            file.close()

    def advance(self, step: int, metrics: Mapping[int, dict[str, float]], images_per_second: float) -> None:
        """Move the bar, with the means of the epoch so far, averaged over the members."""
        names = [name for name in ("loss", "elbo", "rate", "distortion") if all(name in m for m in metrics.values())]
        shown = [f"{name} {mean(m[name] for m in metrics.values()):.2f}" for name in names]
        terms = "  ".join([*shown, f"{images_per_second:,.0f} images/s"])
        epoch = min((step - 1) // self.steps_per_epoch + 1, self.epochs)
        self.progress.update(self.task, completed=step, epoch=epoch, terms=terms)

    def finish_epoch(self, records: Mapping[int, Record]) -> None:
        """Write the epoch's record of each member to its files, and a line for each setting."""
        for member, record in records.items():
            self.metrics[member].write(json.dumps(record) + "\n")
            self.metrics[member].flush()
            os.fsync(self.metrics[member].fileno())
            for name, value in record.items():
                if name.startswith(("train_", "validation_", "test_")):
                    part, _, term = name.partition("_")
                    self.events[member].add_scalar(f"{term}/{part}", value, record["step"])
            self.events[member].add_scalar("data_wait", record["data_wait"], record["step"])
            self.events[member].flush()
        for setting in dict.fromkeys(self.settings):
            self._print([record for member, record in records.items() if self.settings[member] == setting], setting)

    def _print(self, records: Sequence[Record], setting: str) -> None:
        """One line: numbers, or their mean ± standard deviation over seeds."""
        if not records:
            return
        held_out = held_out_set(records[0])
        names = [name for name in records[0] if name.startswith(("train_", f"{held_out}_"))]
        value = {name: mean_and_deviation([record[name] for record in records]) for name in names}
        shown = {name: value.get(f"{held_out}_{name}") for name in ("rate", "distortion")}
        terms = [f"{name} {text}" for name, text in shown.items() if text]
        parts = [
            f"epoch {records[0]['epoch']:>{len(str(self.epochs))}}/{self.epochs}",
            setting,
            f"train loss {value['train_loss']}",
            f"{held_out} loss {value[f'{held_out}_loss']}" + (f" ({', '.join(terms)})" if terms else ""),
            f"{len(records)} seeds" if len(records) > 1 else "",
            f"{skipped:.2%} of the steps skipped" if (skipped := mean(r["train_skipped"] for r in records)) else "",
            f"{records[0]['images_per_second']:,.0f} images/s",
            f"{records[0]['seconds']:.0f} s",
        ]
        self.console.print("  ".join(filter(None, parts)), highlight=False, soft_wrap=True)
        self.console.file.flush()
