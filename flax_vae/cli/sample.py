"""`flax-vae sample`, and `sample.py`: images from a run directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import tyro

from flax_vae.cli.exits import refuse_unwritable, run_command
from flax_vae.evaluation.samples import MODES, Wish, from_gmm
from flax_vae.plots import save_image_grid
from flax_vae.runs.load import load_run
from flax_vae.system.console import print_result
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically
from flax_vae.system.machine import use_machine


@dataclass(frozen=True)
class Sample:
    """Make images with a trained model, from its run directory alone."""

    examples: ClassVar[str] = """
examples:
  flax-vae sample runs/latest                          ten new images in samples.png
  flax-vae sample runs/latest --mode grid              the latent plane, 30 x 30
  flax-vae sample pretrained:grey --num-samples 100 --temperature 0.8 --npy samples.npy
"""

    run: tyro.conf.Positional[Path]
    """Run directory, as train.py wrote it; a .safetensors file; pretrained:NAME; or hf://OWNER/NAME of the Hugging Face
    hub."""
    mode: Literal["prior", "grid", "reconstruct", "interpolate", "traverse"] = "prior"
    """New images from the prior; a 30x30 grid of the latent plane; test images above their reconstructions; the way
    from one test image to another; one test image with each latent dimension moved in turn."""
    sampler: Literal["prior", "gmm"] = "prior"
    """Where the latents of new images come from: the prior, or a Gaussian mixture fitted to samples of the aggregated
    posterior."""
    label: str | None = None
    """Class of the new images, by name or number, of a run that was trained with --conditional; without it, one class
    after the other."""
    num_samples: int = 10
    """Images to make, to reconstruct, or steps from one end to the other."""
    pixels: Literal["mean", "draw"] = "mean"
    """The mean of p(x|z), or a draw from it."""
    seed: int = 0
    """The same seed gives the same file, byte for byte."""
    temperature: float = 1.0
    """Scale of the prior's standard deviation: below 1 for typical images, above 1 for unusual ones."""
    out: Path = Path("samples.png")
    """PNG file to write."""
    npy: Path | None = None
    """Also write the images as a float32 array "n h w c"."""

    def __call__(self) -> None:
        """Run the command.

        Raises:
            UserError: bad input.
        """
        if self.sampler == "gmm" and (self.mode, self.temperature) != ("prior", 1.0):
            raise UserError("--sampler gmm makes new images: it goes with neither another --mode nor a --temperature.")
        if self.label is not None and self.mode not in ("prior", "grid"):
            raise UserError(f"--label goes with --mode prior and grid: test images of {self.mode} have their own.")
        for path in filter(None, (self.out, self.npy)):
            refuse_unwritable(path, ".png" if path == self.out else "")
        wish = Wish(self.num_samples, self.seed, self.temperature, self.label, self.pixels)
        use_machine()
        make = from_gmm if self.sampler == "gmm" else MODES[self.mode]
        images, columns = make(load_run(self.run), wish)
        save_image_grid(self.out, images, columns)
        if self.npy:
            write_atomically(self.npy, lambda part: np.save(part, images))
        print_result(self.out)


def make_samples(argv: Sequence[str] | None = None) -> int:
    """Run `sample.py`; returns the exit code."""
    return run_command(lambda: tyro.cli(Sample, args=argv, prog="sample"), Sample.examples)
