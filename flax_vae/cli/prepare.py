"""`flax-vae prepare`: data sets larger than memory.

examples:
  flax-vae prepare photos/ prepared --image-size 64
  flax-vae train --dataset prepared --preset residual_conv
  flax-vae prepare images.npy prepared
"""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from flax_vae.data import absolute
from flax_vae.data.prepare import prepare_images
from flax_vae.data.resizing import Resize
from flax_vae.runs.directory import refuse_used
from flax_vae.system.console import log, print_result
from flax_vae.system.errors import UserError


@dataclass(frozen=True)
class Prepare:
    """Rewrite an image set larger than memory, so that training can stream it from disk."""

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")]
    """A data set as for train --dataset: a folder of images, a .npy or .npz file, or the name of a TFDS image set.
    Class folders become labels. All but .npz files may be larger than memory."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Directory to write, new or empty."""
    image_size: int | None = None
    """Resize every image to this height and width, in pixels."""
    resize: Resize = "crop"
    """Crop images of another shape to the middle, or stretch them."""
    data_dir: Path | None = None
    """Folder that holds Fashion-MNIST's four IDX files, or the data sets of TFDS."""

    def __call__(self) -> None:
        """Run the command."""
        refuse_used(self.out)
        source, out = Path(absolute(self.dataset)).resolve(), self.out.resolve()
        if source.is_dir() and out.is_relative_to(source):
            raise UserError(f"{self.out} is inside {self.dataset}; choose a directory outside it.")
        splits = prepare_images(self.dataset, self.out, self.data_dir, self.image_size, self.resize)
        counts = ", ".join(f"{split.number:,} {name} images" for name, split in splits.items())
        log(f"{counts}. Train on them with: flax-vae train --dataset {shlex.quote(str(self.out))}")
        print_result(self.out)
