"""Evaluations and runs as tables on the terminal."""

from collections.abc import Sequence
from pathlib import Path

from flax_vae.evaluation.figures import report
from flax_vae.plots.curves import plot_comparison
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.records import Record, best_record, held_out_set
from flax_vae.system.console import log, print_table, printable
from flax_vae.system.errors import UserError


def show(record: Record) -> None:
    """Print an evaluation as a table, one row for each figure."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for figure in report(record):
        value = "" if figure.value is None else format(figure.value, figure.format)
        table.add_row(figure.name, value, "; ".join(filter(None, (figure.unit, figure.note))))
    print_table(table)
    if record["alarm"]:
        log(f"WARNING: {record['alarm']}")


def compare(directories: Sequence[str | Path], picture: Path) -> None:
    """Print a table of runs, with their evaluations if they have any, and draw their test losses.

    Raises:
        UserError: a directory is not a run, or has no finished epoch.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for title in ("epoch", "seconds", "loss", "rate", "distortion", "IW bound", "active", "Fréchet"):
        table.add_column(title, justify="right", no_wrap=True)
    curves = {}
    for directory in (RunDirectory(Path(path)) for path in directories):
        curves[str(directory)] = directory.metrics()
        table.add_row(printable(str(directory)), *_comparison(directory, curves[str(directory)]))
    print_table(table)
    plot_comparison(picture, curves)


def _comparison(directory: RunDirectory, metrics: Sequence[Record]) -> list[str]:
    """Return the cells of a run, for its best epoch."""
    config = directory.config()
    best = best_record(metrics)
    if best is None:
        raise UserError(f"{directory} has no finished epoch yet.")
    terms = [f"{held_out_set(best)}_{term}" for term in ("loss", "rate", "distortion")]
    evaluation = directory.evaluation(best["step"]) or {}
    bounds, units, frechet = (evaluation.get(name) for name in ("importance_weighted", "latent_dim", "frechet"))
    return [
        f"{best['epoch']}/{config.epochs}",
        f"{metrics[-1]['seconds']:.0f}",
        *(f"{best[name]:.2f}" if name in best else "" for name in terms),
        f"{bounds[-1]['log_likelihood']:.2f}" if bounds else "not evaluated",
        f"{evaluation['active_units']}/{units}" if units else "",
        f"{frechet['distance']:.2f}" if frechet else "",
    ]
