"""Arguments that several commands take, and their checks."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from flax_vae.evaluation.run import Run, load_run
from flax_vae.runs.records import Record
from flax_vae.system.console import print_result
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_text

PIPE = Path("-")  # standard input or output
RunPath = Annotated[
    tyro.conf.Positional[Path],
    tyro.conf.arg(
        help="Run directory, as flax-vae train wrote it; a .safetensors file; pretrained:NAME; or hf://OWNER/NAME of "
        "the Hugging Face hub."
    ),
]
_Text = Annotated[str | None, tyro.conf.arg(metavar="MODULE:NAME", help_behavior_hint="")]
OutPath = Annotated[Path, tyro.conf.arg(aliases=("-o",))]
Overwrite = Annotated[bool, tyro.conf.arg(help="Replace an existing file.")]


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class OwnParts:
    """Parts of your own, for a run that was trained with them: no code that a run names is imported."""

    preset: _Text = None
    """The function that makes the model."""
    likelihood: _Text = None
    """The likelihood."""
    prior: _Text = None
    """The prior."""
    posterior: _Text = None
    """The posterior."""
    dataset: _Text = None
    """The data set, if it is a function of your own, my_module:my_source, or has moved."""

    def load_run(self, where: str | Path) -> Run:
        """Open a run with these parts."""
        parts = {name: part for name, part in vars(self).items() if name != "preset"}
        return load_run(where, self.preset, **parts)


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class FiguresFiles:
    """Files for the figures that a command prints."""

    json: Path | None = None
    """Also write the figures to this JSON file. Use "-" to print them as JSON instead of the table."""
    csv: Path | None = None
    """Also write the table to this CSV file. Use "-" to print it as CSV instead."""

    @property
    def prints_table(self) -> bool:
        """True unless standard output gets JSON or CSV instead of the table."""
        return PIPE not in (self.json, self.csv)

    def check(self, overwrite: bool) -> None:
        """Raise UserError if a file cannot be written, before any work is done."""
        if self.json == self.csv == PIPE:
            raise UserError("--json - and --csv - both print to standard output: leave one of them out.")
        for path, suffix in ((self.json, ".json"), (self.csv, ".csv")):
            if path and path != PIPE:
                require_writable(path, overwrite, suffix, f"--{suffix[1:]}")

    def write(self, content: Any, rows: Sequence[Record]) -> None:
        """Write `content` as JSON and `rows` as CSV."""
        table = io.StringIO()
        writer = csv.DictWriter(table, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        texts = {self.json: json.dumps(content, indent=2), self.csv: table.getvalue().rstrip("\n")}
        for path, text in texts.items():
            if path == PIPE:
                print_result(text)
            elif path:
                write_text(path, text + "\n")


def require_writable(path: Path, overwrite: bool, suffix: str = "", flag: str = "--out") -> None:
    """Raise UserError if a file cannot be written, or exists already, before any work is done.

    A picture under its default name, which the same command draws again at any time, may be replaced: the command then
    passes True for `overwrite`.

    Args:
        path: the file.
        overwrite: whether an existing file may be replaced.
        suffix: the ending that its name has to have, if any.
        flag: the flag that names the file, for the message.
    """
    if suffix and path.suffix.lower() != suffix:
        raise UserError(f"{flag} {path}: name a file that ends in {suffix}.")
    require_parent(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{flag} {path} exists and is not a file: name another.")
    if path.exists() and not overwrite:
        raise UserError(f"{flag} {path} already exists: name another file, or replace this one with --overwrite.")


def require_parent(path: Path) -> None:
    """Raise UserError unless the directory of a new file or directory exists."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.absolute().parent} is not a directory to write {path.name} to.")
