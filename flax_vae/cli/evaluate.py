"""`flax-vae evaluate` and `flax-vae compare`."""

from dataclasses import dataclass
from json import dumps
from pathlib import Path

import tyro

from flax_vae.cli.exits import refuse_unwritable
from flax_vae.errors import UserError
from flax_vae.machine import use_machine
from flax_vae.runs.config import Binarize
from flax_vae.runs.evaluate import evaluate
from flax_vae.runs.tables import compare, show


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on its test set: a table here, evaluation.json and pictures in the run directory."""

    run: tyro.conf.Positional[Path]
    """Run directory, as train.py wrote it."""
    num_samples: tuple[int, ...] = (10, 100, 1000)
    """Draws per image of the importance-weighted log-likelihood, once for each number."""
    num_images: int = 1000
    """Test images that it is measured on, chosen by the seed."""
    seed: int = 0
    """Seed of the draws."""
    binarize: Binarize | None = None
    """Draw the images' pixels as 0 or 1, or not, otherwise than the run did; the test images once, by
    --binarize-seed, for fixed and for dynamic."""
    binarize_seed: int = 0
    """Seed of the pixels, with --binarize."""
    json: Path | None = None
    """Also write the figures to this file."""

    def __call__(self) -> None:
        """Run the command."""
        if self.json:
            refuse_unwritable(self.json, ".json", "--json")
        use_machine()
        found = evaluate(
            self.run, self.num_samples, self.num_images, self.seed, None, self.binarize, self.binarize_seed
        )
        show(found)
        if self.json:
            self.json.write_text(dumps(found, indent=1) + "\n")


@dataclass(frozen=True)
class Compare:
    """Runs beside each other: a table here, and one picture of their test losses."""

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
        print(self.out)
