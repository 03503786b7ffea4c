"""The lines of a training's epochs: columns under one header, which fit into 80 characters."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from flax_vae.runs.records import Record, held_out_set

_TERMS = {"loss": "loss", "distortion": "reconstruction", "rate": "KL"}  # as newcomers know them
_SHORT = {"validation": "val"}
_WIDTH = 80 - len("  best")


@dataclass(frozen=True)
class EpochLines:
    """The columns of a training.

    Attributes:
        epochs: the number of epochs of the training.
        monitor: the metric that chooses the best epoch.
        seeds: the largest number of seeds under a label; for several, a column shows mean ± standard deviation.
        labels: the settings that distinguish groups of seeds; one empty label if only the seed differs.
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

    def line(self, records: Sequence[Record], label: str = "", seeds: int = 1, best: bool = False) -> str:
        """Return the line of an epoch.

        Args:
            records: the epoch of each seed that has not diverged.
            label: the settings that distinguish these seeds from other members.
            seeds: the number of seeds that were started.
            best: True if this epoch is the best so far.
        """
        row = self._row(self._cells(records, label))
        skipped = mean(record["train_skipped"] for record in records)
        remarks = ["best" * best, f"{skipped:.2%} of the steps skipped" if skipped else ""]
        remarks += [f"{len(records)} of {seeds} seeds" if len(records) < seeds else ""]
        return "  ".join(filter(None, [row, *remarks]))

    def _cells(self, records: Sequence[Record], label: str) -> dict[str, str]:
        """Return the text of each column by its title, without columns that can be spared if all would be too wide."""
        first, held_out = records[0], held_out_set(records[0])
        of_set = _SHORT.get(held_out, held_out)

        def value(name: str) -> str:
            return mean_and_deviation([record[name] for record in records])

        cells = {"epoch": f"{first['epoch']:>{len(str(self.epochs))}}/{self.epochs}"}
        if len(self.labels) > 1:
            cells["setting"] = label
        if held_out != "train":
            cells["train loss"] = value("train_loss")
        shown = _TERMS if self.monitor in _TERMS else _TERMS | {self.monitor: f"{of_set} {self.monitor}"}
        for name, title in shown.items():
            if f"{held_out}_{name}" in first:
                cells[f"{of_set} loss" if name == "loss" else title] = value(f"{held_out}_{name}")
        cells[self.speed_unit] = f"{first['images_per_second']:,.0f}"
        cells["time"] = duration(first["seconds"])
        for spare in (self.speed_unit, "train loss", "time"):
            if len(self._row(dict.fromkeys(cells, ""))) > _WIDTH:
                cells.pop(spare, None)
        return cells

    def _row(self, cells: dict[str, str]) -> str:
        """Pad the columns: the epoch and the setting on the right, numbers on the left."""
        least, of_rate = (13, 12) if self.seeds > 1 else (8, 6)  # "262.10 ± 0.35" and "16.10 ± 0.02"; a loss and a rate
        widths = {"epoch": 2 * len(str(self.epochs)) + 1, "setting": max(map(len, self.labels))}
        widths |= {"KL": of_rate, "time": 6}
        padded = []
        for title, text in cells.items():
            width = max(len(title), widths.get(title, least))
            padded.append(text.ljust(width) if title in ("epoch", "setting") else text.rjust(width))
        return "  ".join(padded)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Format the mean of values, and for several the sample standard deviation: "262.10 ± 0.35"."""
    center = float(np.mean(values))
    decimals = 2 if abs(center) < 1000 else 1 if abs(center) < 10_000 else 0
    spread = deviation(values)
    return f"{center:.{decimals}f}" + ("" if spread is None else f" ± {spread:.{decimals}f}")


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, NaN if a value is not finite; None for a single value."""
    with np.errstate(invalid="ignore"):
        return float(np.std(values, ddof=1)) if len(values) > 1 else None


def duration(seconds: float) -> str:
    """Format a time to two or three digits: "146 s", "12 min", "3.5 h"."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"
