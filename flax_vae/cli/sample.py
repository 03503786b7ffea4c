"""`flax-vae sample`, and `sample.py`: images from a trained model.

examples:
  flax-vae sample runs/latest                          ten new images in samples.png
  flax-vae sample runs/latest --mode grid              the latent plane, 30 x 30
  flax-vae sample pretrained:grey --num-samples 100 --temperature 0.8 --npy samples.npy
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from flax_vae.cli.arguments import OutPath, Overwrite, OwnParts, RunPath, require_writable
from flax_vae.cli.exits import run_command
from flax_vae.evaluation.run import Run
from flax_vae.evaluation.samples import MODES, Request
from flax_vae.plots import save_image_grid
from flax_vae.samplers import SAMPLERS
from flax_vae.system.console import print_result
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically
from flax_vae.system.machine import use_machine


@dataclass(frozen=True)
class Sample:
    """Make images with a trained model."""

    run: RunPath
    mode: Annotated[str, tyro.conf.arg(help=f"Images to make.\n{MODES.help()}")] = "prior"
    sampler: Annotated[str, tyro.conf.arg(help=f"The source of the latents of new images.\n{SAMPLERS.help()}")] = (
        "prior"
    )
    request: tyro.conf.OmitArgPrefixes[Request] = field(default_factory=Request)
    out: OutPath = Path("samples.png")
    """PNG file to write; for a run of vectors a .npy file, by default samples.npy."""
    npy: Path | None = None
    """Also write the images to this .npy file, as a float32 array "n h w c", or "n v" of vectors."""
    overwrite: Overwrite = False
    own: OwnParts = field(default_factory=OwnParts)

    def __call__(self) -> None:
        """Run the command."""
        mode, sampler = MODES.read(self.mode).name, SAMPLERS.read(self.sampler).name
        MODES.load(self.mode)  # imports a part of the user's own before work starts
        SAMPLERS.load(self.sampler)
        if sampler != "prior" and mode != "prior":
            raise UserError(f"--sampler {sampler} makes new images: leave out --mode {mode}.")
        if self.request.label is not None and mode in MODES and not MODES.facts[mode].get("uses_label"):
            modes = " and ".join(name for name in MODES if MODES.facts[name].get("uses_label"))
            raise UserError(f"--label is for --mode {modes}: the test images of {mode} have labels.")
        ending = ".npy" if self.out.suffix.lower() == ".npy" else ".png"  # a run of vectors has no picture
        require_writable(self.out, self.overwrite or self.out == Sample.out, ending)
        if self.npy:
            require_writable(self.npy, self.overwrite, ".npy", "--npy")
        use_machine()
        run = self.own.load_run(self.run)
        run.refuse_views("A file of samples")
        picture, array = self._files(run)
        rows, columns = MODES.make(self.mode, run=run, request=self.request, sampler=self.sampler)
        if picture:
            save_image_grid(picture, rows, columns)
        if array:
            write_atomically(array, lambda temporary: np.save(temporary, rows))
        print_result(picture or array)

    def _files(self, run: Run) -> tuple[Path | None, Path | None]:
        """Return the paths of the picture and of the array; vectors have no picture, so --out names their array."""
        is_default, ending = self.out == Sample.out, ".png" if run.kind == "images" else ".npy"
        if not is_default and self.out.suffix.lower() != ending:
            raise UserError(f"--out {self.out}: {run.name} makes {run.kind}: name a file that ends in {ending}.")
        if run.kind == "images":
            return self.out, self.npy
        if not is_default and self.npy:
            raise UserError(f"--out {self.out} and --npy {self.npy} both name the file of vectors: leave one out.")
        array = self.npy or self.out.with_suffix(".npy")
        require_writable(array, overwrite=True)  # a file that the user named has been checked already
        return None, array


def make_samples(argv: Sequence[str] | None = None) -> int:
    """Run `sample.py` and return the exit code."""
    return run_command(lambda: tyro.cli(Sample, args=argv, prog="sample"), Sample)
