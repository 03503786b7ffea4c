"""`flax-vae compare`: several runs side by side.

examples:
  flax-vae compare runs/sweep/*
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from flax_vae.cli.arguments import OutPath, Overwrite, require_writable
from flax_vae.evaluation.tables import compare
from flax_vae.system.console import print_result
from flax_vae.system.errors import UserError


@dataclass(frozen=True)
class Compare:
    """Compare runs: print a table, and draw their test losses in one picture.

    The number after ± is the standard error of a figure over evaluations with other draws and other binarisations.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, as train.py wrote them.
    Files among them, such as the summary.json of an ensemble, are skipped."""
    out: OutPath = Path("comparison.png")
    """PNG file to write."""
    overwrite: Overwrite = False

    def __call__(self) -> None:
        """Run the command."""
        if not self.runs:
            raise UserError("flax-vae compare: name the run directories.")
        require_writable(self.out, self.overwrite or self.out == Compare.out, ".png")
        compare(self.runs, self.out)
        print_result(self.out)
