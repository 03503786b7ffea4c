"""The lines of a training's epochs: columns under one header, within 80 characters for a run and for seeds of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from flax_vae.runs.records import Record, held_out_set

_TERMS = {"loss": "loss", "distortion": "reconstruction", "rate": "KL"}  # as newcomers know them
_SHORT = {"validation": "val"}


@dataclass(frozen=True)
class EpochLines:
    """The columns of a training.

    Attributes:
        epochs: the number of epochs of the training.
        monitor: the metric that chooses the best epoch.
        seeds: the number of seeds under a label; for several, a column shows mean ± standard deviation.
        labels: what distinguishes members other than by seed; a single empty one if nothing does.
        speed_unit: the unit of the speed.
    """

    epochs: int
    monitor: str = "loss"
    seeds: int = 1
    labels: Sequence[str] = ("",)
    speed_unit: str = "images/s"

    def header(self, record: Record) -> str:
        """Return the line above those of all epochs."""
        return self._row({title: title for title in self._cells([record], "")}).rstrip()

    def line(self, records: Sequence[Record], label: str = "", best: bool = False) -> str:
        """Return the line of an epoch.

        Args:
            records: the epoch of each seed.
            label: what distinguishes the seeds from other members.
            best: True if this epoch is the best so far.
        """
        skipped = mean(record["train_skipped"] for record in records)
        remarks = ["best" * best, f"{skipped:.2%} of the steps skipped" if skipped else ""]
        remarks += [f"{len(records)} of {self.seeds} seeds" if len(records) < self.seeds else ""]
        return "  ".join(filter(None, [self._row(self._cells(records, label)), *remarks]))

    def _cells(self, records: Sequence[Record], label: str) -> dict[str, str]:
        """Return the text of each column by its title."""
        first, held_out = records[0], held_out_set(records[0])

        def value(name: str) -> str:
            return mean_and_deviation([record[name] for record in records])

        cells = {"epoch": f"{first['epoch']:>{len(str(self.epochs))}}/{self.epochs}"}
        compact = len(self.labels) > 1  # leaves room for the labels
        if compact:
            cells["member"] = label
        if not compact and held_out != "train":
            cells["train loss"] = value("train_loss")
        shown = _TERMS if self.monitor in _TERMS else _TERMS | {self.monitor: f"{held_out} {self.monitor}"}
        for name, title in shown.items():
            if f"{held_out}_{name}" in first:
                where = f"{_SHORT.get(held_out, held_out)} " if name == "loss" else ""
                cells[where + title] = value(f"{held_out}_{name}")
        if self.seeds == 1 and not compact:
            cells[self.speed_unit] = f"{first['images_per_second']:,.0f}"
        if not compact:
            cells["time"] = duration(first["seconds"])
        return cells

    def _row(self, cells: dict[str, str]) -> str:
        """Pad the columns: the epoch and the label on the right, numbers on the left."""
        least = 13 if self.seeds > 1 else 8  # "262.10 ± 0.35", or "12345.67"
        widths = {"epoch": 2 * len(str(self.epochs)) + 1, "member": max(map(len, self.labels)), "KL": least - 2}
        widths |= {"time": 6}
        padded = []
        for title, text in cells.items():
            width = max(len(title), widths.get(title, least))
            padded.append(text.ljust(width) if title in ("epoch", "member") else text.rjust(width))
        return "  ".join(padded)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Format the mean of values, and for several the sample standard deviation: "262.10 ± 0.35"."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def duration(seconds: float) -> str:
    """Format a time to two digits or so: "95 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
