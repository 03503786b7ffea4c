"""Evaluations and runs as tables on the terminal."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_vae.data import example_noun
from flax_vae.evaluation.figures import Figure, report
from flax_vae.plots import plot_comparison, save_figure
from flax_vae.pytrees import flatten_by_name
from flax_vae.runs.config_file import read_config
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.records import Record, best_record, held_out_set
from flax_vae.runs.run import StoredRun, evaluation_of
from flax_vae.system.console import log, print_result, print_table, printable, table_width
from flax_vae.system.errors import UserError

_TITLES = ("epoch", "seconds", "loss", "rate", "distortion", "IW bound", "active", "Fréchet")
_NO_FIGURE = "-"


def show(record: Record, kind: str = "images") -> None:
    """Print an evaluation on examples of a kind as a table, one row for each figure."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for figure in report(record, kind):
        table.add_row(figure.name, _value(figure), _remarks(figure))
    print_table(table)


def summary(run: StoredRun) -> str:
    """Return a run as text: the parameters of each module, the metrics of their epoch, and the evaluation if any."""
    modules = defaultdict[str, dict[str, Any]](dict)
    for name, array in flatten_by_name(run.params).items():
        module, _, parameter = name.rpartition(".")
        modules[module][parameter] = array
    parameters = [
        (
            module,
            f"{sum(array.size for array in arrays.values()):,}",
            "  ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in arrays.items()),
        )
        for module, arrays in modules.items()
    ]
    metrics = [(name, f"{value:.6g}", "") for name, value in run.record.items()]
    figures = [(figure.name, _value(figure), _remarks(figure)) for figure in report(evaluation_of(run) or {}, run.kind)]
    lines = [repr(run)]
    for title, rows in (("Parameters", parameters), ("Metrics", metrics), ("Evaluation", figures)):
        if rows:
            lines += ["", title, *_columns(rows)]
    return "\n".join(lines)


def _columns(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """Yield the lines of a table: names, values aligned to the right, and remarks."""
    names, values, _ = zip(*rows, strict=True)
    longest, widest = max(map(len, names)), max(map(len, values))
    for name, value, remark in rows:
        yield f"  {name.ljust(longest)}  {value.rjust(widest)}  {remark}".rstrip()


def show_comparison(figures: Sequence[Record]) -> None:
    """Print a table of runs.

    A figure of an evaluation is followed by "±" and its standard error: how much another evaluation would differ, with
    other draws and, for binarised images, another binarisation.
    """
    for line in _aligned({printable(row["run"]): _cells(row) for row in figures}, table_width()):
        print_result(line)


def compare(
    directories: Sequence[str | Path], picture: Path, show_figures: Callable[[Sequence[Record]], None] = show_comparison
) -> None:
    """Show the figures of runs, and draw their test losses.

    A pattern such as `runs/*` matches more than runs: files are skipped, an ensemble is replaced by its members, and a
    run that is named twice, such as by `latest`, is compared once.

    Args:
        directories: run directories.
        picture: the PNG file to draw.
        show_figures: what to do with the figures, a record for each run; by default, print a table.

    Raises:
        UserError: a directory is not a run, or has no finished epoch; or there are only files.
    """
    named = [RunDirectory(Path(path)) for path in directories if not Path(path).expanduser().is_file()]
    by_path = dict[Path, RunDirectory]()
    for run in (run for each in named for run in each.members() or [each]):
        by_path.setdefault(run.path.resolve(), run)
    runs = list(by_path.values())
    if not runs:
        raise UserError(f"{directories[0]} is a file: name run directories.")
    curves = {str(run): run.metrics() for run in runs}
    figures = [_figures(run, curves[str(run)]) for run in runs]
    show_figures(figures)
    if missing := [printable(row["run"]) for row in figures if row["iw_bound"] is None]:
        measured = "the bound, the active units and the Fréchet distance"
        log(f"Not evaluated: {', '.join(missing)}. flax-vae evaluate RUN measures {measured}.")
    _warn_of_different_data([run for run in runs if (run.path / "provenance.json").exists()])
    shapes = [read_config(run.config_file)[1] for run in runs]
    of_images = all(isinstance(shape, tuple) and len(shape) == 3 for shape in shapes)
    save_figure(picture, plot_comparison(curves, example_noun("images" if of_images else "vectors")))


def figure_rows(record: Record, kind: str = "images") -> list[Record]:
    """Return the rows that `show` prints, as records; a remark below a figure has its name."""
    rows: list[Record] = []
    for figure in report(record, kind):
        name = figure.name or rows[-1]["figure"]
        rows.append({"figure": name, "value": figure.value, "unit": figure.unit, "note": figure.note})
    return rows


def _warn_of_different_data(runs: Sequence[RunDirectory]) -> None:
    """Name the runs that were trained on other data than the first one."""
    checksums = {printable(str(run)): run.data_checksums() for run in runs}
    first = next(iter(checksums), "")
    if others := [name for name in checksums if checksums[name] != checksums[first]]:
        names = f"{first} and {', '.join(others)}"
        log(f"WARNING: the data checksums of {names} differ: losses on different data cannot be compared.")


def _value(figure: Figure) -> str:
    return "" if figure.value is None else format(figure.value, figure.format)


def _remarks(figure: Figure) -> str:
    return "; ".join(filter(None, (figure.unit, figure.note)))


def _aligned(cells: Mapping[str, Sequence[str]], width: int) -> Iterator[str]:
    """Yield the lines of the table: each name before its numbers, or above them if a line would be too long."""
    from rich.cells import cell_len, set_cell_size

    rows = [("run", _TITLES), *cells.items()]
    longest = max(cell_len(name) for name, _ in rows)
    sizes = [max(map(len, column)) for column in zip(*(row for _, row in rows), strict=True)]
    gap = "  " if sum(sizes) + 2 * len(sizes) <= width else " "
    for name, row in rows:
        numbers = gap.join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True))
        if longest + 2 + len(numbers) <= width:
            yield f"{set_cell_size(name, longest)}  {numbers}"
        else:
            yield name
            yield f"  {numbers}"


def _figures(directory: RunDirectory, metrics: Sequence[Record]) -> Record:
    """Return the figures of a run, for its best epoch; None for what was not measured."""
    config = directory.config()
    best = best_record(metrics, config.monitored)
    if best is None:
        raise UserError(f"{directory} has no finished epoch yet.")
    evaluation = directory.evaluation(best["step"]) or {}
    bounds, frechet = (evaluation.get(name) for name in ("importance_weighted", "frechet"))
    bound = bounds[-1] if bounds else {}
    return {
        "run": str(directory),
        "epoch": best["epoch"],
        "epochs": config.epochs,
        "seconds": metrics[-1]["seconds"],
        "set": held_out_set(best),
        **{name: best.get(f"{held_out_set(best)}_{name}") for name in ("loss", "rate", "distortion")},
        "iw_bound": bound.get("log_likelihood"),
        "iw_bound_error": _standard_error(bound),
        "active_units": evaluation.get("active_units"),
        "latent_dim": evaluation.get("latent_dim"),
        "frechet": (frechet or {}).get("distance"),
        "frechet_error": _standard_error(frechet or {}),
    }


def _cells(row: Record) -> list[str]:
    """Return the cells of a run."""

    def number(name: str) -> str:
        if row[name] is None:
            return _NO_FIGURE
        error = row.get(f"{name}_error")
        return f"{row[name]:.2f}" + ("" if error is None else f"±{error:.2f}")

    units = _NO_FIGURE if row["active_units"] is None else f"{row['active_units']}/{row['latent_dim']}"
    terms = [number(name) for name in ("loss", "rate", "distortion", "iw_bound")]
    return [f"{row['epoch']}/{row['epochs']}", f"{row['seconds']:.0f}", *terms, units, number("frechet")]


def _standard_error(row: Record) -> float | None:
    """Return the standard error of a figure over repetitions with other draws and another binarisation.

    The error from the choice of images is left out: runs are compared on the same images. Earlier versions stored fewer
    errors.
    """
    stored = (row.get(f"standard_error_of_{cause}") for cause in ("draws", "binarization"))
    errors = [error for error in stored if error is not None]
    return math.hypot(*errors) if errors else None
