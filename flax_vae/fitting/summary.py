"""The summary of an ensemble: mean and standard deviation over the seeds, as a table and as `summary.json`."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from flax_vae.fitting.members import member_labels
from flax_vae.runs.config import Config
from flax_vae.runs.records import Record, held_out_set
from flax_vae.system.console import print_table
from flax_vae.system.files import write_json

_SHOWN = ("loss", "rate", "distortion")


def mean_and_deviation(values: Sequence[float]) -> str:
    """Format the mean of values, and for several the sample standard deviation: "262.10 ± 0.35"."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def write_summary(directory: Path, members: Sequence[tuple[Config, Record | None]]) -> None:
    """Print and write the mean and standard deviation over the seeds.

    The metrics are those of the validation set if there is one, else of the test set.

    Args:
        directory: the directory of all members.
        members: each configuration with the record of its last epoch; None if it diverged.
    """
    from rich.table import Table

    held_out = next(held_out_set(record) for _, record in members if record)
    columns = [f"{held_out}_{term}" for term in _SHOWN]
    columns = [name for name in columns if any(name in record for _, record in members if record)]
    table, rows = Table(box=None, pad_edge=False), []
    for column in ("", "seeds", "failed", *(name.replace("_", " ") for name in columns)):
        table.add_column(column, justify="left" if not column else "right")
    labels = member_labels([config for config, _ in members])
    for label in dict.fromkeys(labels):
        group = [member for member, other in zip(members, labels, strict=True) if other == label]
        row, values = _row(group, f"{held_out}_")
        rows.append(row)
        numbers = [mean_and_deviation(values[name]) if values else "" for name in columns]
        table.add_row(label, str(len(row["seeds"])), str(len(row["failed"])), *numbers)
    write_json(directory / "summary.json", rows)
    print_table(table)


def _row(group: Sequence[tuple[Config, Record | None]], prefix: str) -> tuple[Record, dict[str, list[float]]]:
    """Return the row of members that differ in the seed only, and the values of their metrics that have a prefix."""
    first = group[0][0]
    seeds, failed = ([config.seed for config, record in group if bool(record) == ok] for ok in (True, False))
    records = [record for _, record in group if record]
    names = [name for name in records[0] if name.startswith(prefix)] if records else []
    values = {name: [record[name] for record in records] for name in names}
    row = {"learning_rate": first.learning_rate, "beta": first.beta, "seeds": seeds, "failed": failed}
    spread = {name: {"mean": mean(v), "sd": stdev(v) if len(v) > 1 else None} for name, v in values.items()}
    return row | spread, values
