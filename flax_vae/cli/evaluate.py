"""`flax-vae evaluate`: metrics of a trained model.

examples:
  flax-vae evaluate runs/latest
  flax-vae evaluate pretrained:mlp --protocol exemplar_vae --json mlp.json
  flax-vae evaluate runs/latest --method ais --num-images 20
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from flax_vae.cli.arguments import PIPE, FiguresFiles, Overwrite, OwnParts, RunPath
from flax_vae.evaluation.evaluate import evaluate
from flax_vae.evaluation.plan import PROTOCOLS, Plan
from flax_vae.evaluation.subject import IMAGES_PER_UPDATE
from flax_vae.evaluation.tables import figure_rows, show
from flax_vae.metrics.likelihood import Defence
from flax_vae.runs.config import Binarize
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.machine import cpu_cores, use_machine


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class _Files(FiguresFiles):
    """Files for the figures that the command prints."""

    json: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """Also write the figures to this JSON file. Use "-" to print them as JSON instead of the table."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained model on its test set: print a table, and write evaluation.json and two pictures.

    An interrupted evaluation resumes from its partial results, in the run directory or beside the file of --json.
    """

    run: RunPath
    protocol: Literal["exemplar_vae"] | None = None
    """Evaluate as in a published table.
    exemplar_vae (Norouzi et al. 2020): 5,000 draws for each of 10,000 test images, binarised once, with seed 0."""
    num_samples: tuple[int, ...] | None = None
    """Draws per image for the importance-weighted bound, one bound for each number; 10 100 1000 by default."""
    num_images: int | None = None
    """Number of test images for the bound, chosen by the seed; 1000 by default, 100 with --method ais."""
    method: Literal["iw", "ais"] = "iw"
    """iw: importance weighting by the posterior.
    ais: also annealed importance sampling, which is slow but finds what the posterior misses."""
    annealing_steps: int = 500
    """Number of annealing steps, with --method ais."""
    defence: float | None = None
    """Draw a fifth of the samples from the posterior widened by this factor.
    Pareto k then reveals where the posterior is too narrow. Try 2 to 5."""
    metrics: tuple[str, ...] = ()
    """Further metrics, such as my_module:my_metric: functions of your own, which map a
    flax_vae.evaluation.subject.Subject to a number or a dictionary of numbers."""
    seed: int = 0
    """Seed of the draws."""
    binarize: Binarize | None = None
    """Evaluate on differently binarised images.
    Test images are binarised once, for fixed and dynamic alike, with --binarize-seed."""
    binarize_seed: int | None = None
    """Seed of the binarisation, with --binarize."""
    overwrite: Overwrite = False
    files: _Files = field(default_factory=_Files)
    own: OwnParts = field(default_factory=OwnParts)

    def __call__(self) -> None:
        """Run the command."""
        self.files.check(self.overwrite)
        plan = self._plan()
        use_machine(math.gcd(cpu_cores(), IMAGES_PER_UPDATE))  # one image per core at a time is fastest
        file = self.files.json
        part = None if file in (None, PIPE) else file.with_suffix(".part.npz")
        run = self.own.load_run(self.run)
        record = evaluate(run, plan, part=part)
        self.files.write(record, figure_rows(record, run.kind))
        if self.files.prints_table:
            show(record, run.kind)
        if record["alarm"]:
            log(f"WARNING: {record['alarm']}")

    def _plan(self) -> Plan:
        names = ("num_samples", "num_images", "binarize", "binarize_seed")
        settings = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.protocol and settings:
            raise UserError(f"--protocol {self.protocol} fixes `{next(iter(settings))}`: leave one of them out.")
        if self.annealing_steps < 1:
            raise UserError(f"--annealing-steps must be at least 1, not {self.annealing_steps}.")
        if self.binarize_seed is not None and self.binarize is None:
            raise UserError("--binarize-seed needs --binarize.")
        defaults = {"num_images": 100} if self.method == "ais" and not self.protocol else {}
        return replace(
            PROTOCOLS[self.protocol] if self.protocol else Plan(),
            seed=self.seed,
            metrics=self.metrics,
            defence=None if self.defence is None else Defence(scale=self.defence),
            annealing_steps=self.annealing_steps if self.method == "ais" else 0,
            **(defaults | settings),
        )
