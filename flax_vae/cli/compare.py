"""`flax-vae compare`: several runs side by side.

examples:
  flax-vae compare runs/sweep/*
  flax-vae compare runs/sweep/* --csv sweep.csv
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from flax_vae.cli.arguments import FiguresFiles, OutPath, Overwrite, require_writable
from flax_vae.evaluation.tables import compare, show_comparison
from flax_vae.runs.records import Record
from flax_vae.system.console import print_result
from flax_vae.system.errors import UserError


@dataclass(frozen=True)
class Compare:
    """Compare runs: print a table, and draw their test losses in one picture.

    The number after ± is the standard error of a figure over evaluations with other draws and other binarisations.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, as flax-vae train wrote them.
    Files among them, such as the summary.json of an ensemble, are skipped."""
    out: OutPath = Path("comparison.png")
    """PNG file to write."""
    overwrite: Overwrite = False
    files: FiguresFiles = field(default_factory=FiguresFiles)

    def __call__(self) -> None:
        """Run the command."""
        if not self.runs:
            raise UserError("flax-vae compare: name the run directories.")
        require_writable(self.out, self.overwrite or self.out == Compare.out, ".png")
        self.files.check(self.overwrite)
        compare(self.runs, self.out, self._show)
        if self.files.prints_table:
            print_result(self.out)

    def _show(self, figures: Sequence[Record]) -> None:
        self.files.write(figures, figures)
        if self.files.prints_table:
            show_comparison(figures)
