"""`flax-vae evaluate` and `flax-vae compare`."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from flax_vae.cli.exits import refuse_unwritable
from flax_vae.evaluation.evaluate import evaluate
from flax_vae.evaluation.plan import PROTOCOLS, Plan
from flax_vae.evaluation.subject import IMAGES_PER_UPDATE
from flax_vae.evaluation.tables import compare, show
from flax_vae.metrics.likelihood import Defence
from flax_vae.runs.config import Binarize
from flax_vae.system.console import print_result
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_json
from flax_vae.system.machine import cpu_cores, use_machine


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on its test set: a table here, evaluation.json and pictures in the run directory."""

    examples: ClassVar[str] = """
examples:
  flax-vae evaluate runs/latest
  flax-vae evaluate pretrained:mlp --protocol exemplar_vae --json mlp.json
  flax-vae evaluate runs/latest --method ais --num-images 20
"""

    run: tyro.conf.Positional[Path]
    """Run directory, as train.py wrote it; a .safetensors file; pretrained:NAME; or hf://OWNER/NAME of the Hugging Face
    hub."""
    protocol: Literal["exemplar_vae"] | None = None
    """Measure as a published table does. exemplar_vae (Norouzi et al. 2020): 5,000 draws for each of 10,000 test
    images, binarised once, by seed 0."""
    num_samples: tuple[int, ...] | None = None
    """Draws per image of the importance-weighted log-likelihood, once for each number; 10 100 1000 by default."""
    num_images: int | None = None
    """Test images that it is measured on, chosen by the seed; 1000 by default, 100 with --method ais."""
    method: Literal["iw", "ais"] = "iw"
    """How the log-likelihood is measured: importance weighting by the posterior; or, beside it, annealed importance
    sampling, which is slow but finds what the posterior misses."""
    annealing_steps: int = 500
    """Steps from the posterior to the model, with --method ais."""
    defence: float | None = None
    """Draw a fifth of the samples from the posterior with its scale times this, so that Pareto k sees where it is too
    narrow; 2 to 5."""
    seed: int = 0
    """Seed of the draws."""
    binarize: Binarize | None = None
    """Measure on other pixels than the run was trained on. Test images are drawn once for fixed and for dynamic, by
    --binarize-seed."""
    binarize_seed: int | None = None
    """Seed of the pixels, with --binarize."""
    json: Path | None = None
    """Also write the figures to this file. An evaluation that was interrupted goes on where it ended; what it has found
    is in FILE.part.npz, or in the run directory."""

    def __call__(self) -> None:
        """Run the command."""
        if self.json:
            refuse_unwritable(self.json, ".json", "--json")
        plan = self._plan()
        use_machine(math.gcd(cpu_cores(), IMAGES_PER_UPDATE))  # each core is faster with images of its own
        found = evaluate(self.run, plan, part=self.json and self.json.with_suffix(".part.npz"))
        if self.json:
            write_json(self.json, found)
        show(found)

    def _plan(self) -> Plan:
        names = ("num_samples", "num_images", "binarize", "binarize_seed")
        own = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.protocol and own:
            raise UserError(f"--protocol {self.protocol} fixes `{next(iter(own))}`: leave one of them out.")
        if self.annealing_steps < 1:
            raise UserError(f"--annealing-steps must be at least 1, not {self.annealing_steps}.")
        if self.binarize_seed is not None and self.binarize is None:
            raise UserError("--binarize-seed goes with --binarize.")
        usual = {"num_images": 100} if self.method == "ais" and not self.protocol else {}
        return replace(
            PROTOCOLS[self.protocol] if self.protocol else Plan(),
            seed=self.seed,
            defence=None if self.defence is None else Defence(scale=self.defence),
            annealing_steps=self.annealing_steps if self.method == "ais" else 0,
            **(usual | own),
        )


@dataclass(frozen=True)
class Compare:
    """Runs beside each other: a table here, and one picture of their test losses."""

    examples: ClassVar[str] = """
examples:
  flax-vae compare runs/sweep/*
"""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, as train.py wrote them."""
    out: Path = Path("comparison.png")
    """PNG file to write."""

    def __call__(self) -> None:
        """Run the command."""
        if not self.runs:
            raise UserError("flax-vae compare: name the run directories.")
        refuse_unwritable(self.out)
        compare(self.runs, self.out)
        print_result(self.out)
