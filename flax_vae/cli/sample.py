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
from flax_vae.pytrees import by_name
from flax_vae.samplers import SAMPLERS
from flax_vae.system.console import print_result
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically
from flax_vae.system.machine import use_machine

_ENDINGS = {"images": ".png", "vectors": ".npy", "views": ".npz"}  # of the file that --out names, for each kind of run


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
    """PNG file to write; for a run of vectors a .npy file, by default samples.npy.
    For a run of several views a .npz file, by default samples.npz, with an array for each view; a view of images is
    also drawn in a PNG file beside it, samples-VIEW.png."""
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
        ending = next((each for each in _ENDINGS.values() if self.out.suffix.lower() == each), ".png")
        require_writable(self.out, self.overwrite or self.out == Sample.out, ending)
        if self.npy:
            require_writable(self.npy, self.overwrite, ".npy", "--npy")
        use_machine()
        run = self.own.load_run(self.run)
        pictures, array = self._files(run)
        rows, columns = MODES.make(self.mode, run=run, request=self.request, sampler=self.sampler)
        views = by_name(rows)
        for name, picture in pictures.items():
            save_image_grid(picture, views[name], columns)
        if array and array.suffix.lower() == ".npz":
            write_atomically(array, lambda temporary: np.savez(temporary, allow_pickle=False, **views))
        elif array:
            write_atomically(array, lambda temporary: np.save(temporary, rows))
        print_result(self.out if run.kind == "images" else array)

    def _files(self, run: Run) -> tuple[dict[str, Path], Path | None]:
        """Return the paths of the pictures, by the view that they show, and of the arrays.

        Vectors have no picture, and several views have several arrays, so --out names the file of the arrays.
        """
        is_default, ending = self.out == Sample.out, _ENDINGS[run.kind]
        if not is_default and self.out.suffix.lower() != ending:
            raise UserError(f"--out {self.out}: {run.name} makes {run.kind}: name a file that ends in {ending}.")
        if run.kind == "images":
            return {"": self.out}, self.npy
        if run.kind == "views" and self.npy:
            raise UserError(f"--npy {self.npy}: {run.name} makes several views: name a .npz file with --out.")
        if not is_default and self.npy:
            raise UserError(f"--out {self.out} and --npy {self.npy} both name the file of vectors: leave one out.")
        array = self.npy or self.out.with_suffix(ending)
        require_writable(array, overwrite=True)  # a file that the user named has been checked already
        of_images = [name for name, view in by_name(run.examples).items() if view.ndim == 4]
        pictures = {name: array.with_name(f"{array.stem}-{name}.png") for name in of_images}
        for picture in pictures.values():
            require_writable(picture, self.overwrite or is_default)
        return pictures, array


def make_samples(argv: Sequence[str] | None = None) -> int:
    """Run `sample.py` and return the exit code."""
    return run_command(lambda: tyro.cli(Sample, args=argv, prog="sample"), Sample)
