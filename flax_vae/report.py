"""What a training tells the world: a live bar or plain lines, metrics.jsonl, and TensorBoard events."""

import json
import os
import sys
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def say(line: str) -> None:
    """Tell the user one thing, apart from the program's output."""
    print(line, file=sys.stderr, flush=True)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The finished epochs of a run, in order; a last line that was cut off is left out."""
    path = directory / METRICS
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def keep_metrics_until(directory: Path, step: int) -> None:
    """Drop what was written after the checkpoint of `step`, so that a resumed run repeats no epoch."""
    records = [record for record in read_metrics(directory) if record["step"] <= step]
    path = directory / METRICS
    path.with_suffix(".tmp").write_text("".join(json.dumps(record) + "\n" for record in records))
    os.replace(path.with_suffix(".tmp"), path)


class Report:
    """The reporting of one training, as a context manager."""

    def __init__(self, directory: Path, epochs: int, steps_per_epoch: int, first_step: int) -> None:
        """Open the files and the bar; `first_step` is above 0 where a run is resumed."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from tensorboardX import SummaryWriter

        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.metrics = (directory / METRICS).open("a")
        self.events = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step or None)
        self.console = Console()
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %  {task.fields[terms]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
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
        self.metrics.close()
        self.events.close()

    def advance(self, step: int, metrics: dict[str, float], images_per_second: float) -> None:
        """Move the bar, with the means of the epoch so far."""
        shown = [f"{name} {metrics[name]:.2f}" for name in ("loss", "elbo", "rate", "distortion") if name in metrics]
        terms = "  ".join([*shown, f"{images_per_second:,.0f} images/s"])
        epoch = min((step - 1) // self.steps_per_epoch + 1, self.epochs)
        self.progress.update(self.task, completed=step, epoch=epoch, terms=terms)

    def finish_epoch(self, record: dict[str, Any]) -> None:
        """Write the epoch's record to every place."""
        self.metrics.write(json.dumps(record) + "\n")
        self.metrics.flush()
        os.fsync(self.metrics.fileno())
        for name, value in record.items():
            if name.startswith(("train_", "test_")):
                part, _, term = name.partition("_")
                self.events.add_scalar(f"{term}/{part}", value, record["step"])
        self.events.flush()
        terms = [f"{name} {record[f'test_{name}']:.2f}" for name in ("rate", "distortion") if f"test_{name}" in record]
        self.console.print(
            f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}",
            f"train loss {record['train_loss']:.2f}",
            f"test loss {record['test_loss']:.2f}" + (f" ({', '.join(terms)})" if terms else ""),
            f"{record['images_per_second']:,.0f} images/s",
            f"{record['seconds']:.0f} s",
            sep="  ",
            highlight=False,
            soft_wrap=True,
        )
        self.console.file.flush()
