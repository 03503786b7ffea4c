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
    """PNG file to write; a run of vectors writes a .npy file instead."""
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
        require_writable(self.out, self.overwrite or self.out == Sample.out, ".png")
        if self.npy:
            require_writable(self.npy, self.overwrite, ".npy", "--npy")
        use_machine()
        run = self.own.load_run(self.run)
        array = None if run.kind == "images" else self.npy or self.out.with_suffix(".npy")
        if array and array != self.npy:
            require_writable(array, self.overwrite or self.out == Sample.out)
        rows, columns = MODES.make(self.mode, run=run, request=self.request, sampler=self.sampler)
        if array is None:
            save_image_grid(self.out, rows, columns)
        if written := array or self.npy:
            write_atomically(written, lambda temporary: np.save(temporary, rows))
        print_result(array or self.out)


def make_samples(argv: Sequence[str] | None = None) -> int:
    """Run `sample.py` and return the exit code."""
    return run_command(lambda: tyro.cli(Sample, args=argv, prog="sample"), __doc__)
