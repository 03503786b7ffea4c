"""`flax-vae compress`: images to a file.

examples:
  flax-vae compress pretrained:grey                          the test images of the model, to images.fvae
  flax-vae compress pretrained:grey photos/ more.png -o photos.fvae
  flax-vae compress pretrained:grey - -o - < images.npy > images.fvae
"""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro

from flax_vae.cli.arguments import PIPE, OutPath, Overwrite, OwnParts, RunPath, require_writable
from flax_vae.compression import compress, read_header
from flax_vae.data.image_files import NamedImages, read_images
from flax_vae.evaluation.run import Run
from flax_vae.runs.run import run_data
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically
from flax_vae.system.machine import use_machine


@dataclass(frozen=True)
class Compress:
    """Compress images losslessly, at a cost of minus the model's ELBO in bits.

    The model's pixels have to be binary or to have 256 levels.
    """

    run: RunPath
    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Image files, folders of them, a .npy or .npz file, or - for a .npy array on standard input.
    Without any, the run's test images."""
    out: OutPath = Path("images.fvae")
    """File to write, or - for standard output."""
    overwrite: Overwrite = False
    own: OwnParts = field(default_factory=OwnParts)

    def __call__(self) -> None:
        """Run the command."""
        if self.out != PIPE:
            require_writable(self.out, self.overwrite)
        stdin = sys.stdin.buffer.read() if self.images == (PIPE,) else None
        use_machine()
        run = self.own.load_run(self.run)
        run.require_images("Compression")
        if self.images:
            images = _with_labels(run, read_images(self.images, run.examples.shape[-1], stdin))
        else:
            test = run_data(run).test
            images = NamedImages(np.asarray(test.x), labels=test.labels if run.class_names else None)
        start = time.monotonic()
        classes, name = len(run.class_names), self.run.name
        content = compress(
            run.model, run.params, images.images, images.labels, classes, images.names, name, images.dtypes
        )
        seconds = time.monotonic() - start
        if self.out == PIPE:
            sys.stdout.buffer.write(content)
        else:
            write_atomically(self.out, lambda temporary: temporary.write_bytes(content))
        header = read_header(content)
        net = header.bits_per_dim(8 * len(content) - header.initial_bits)
        log(
            f"{header.images:,} images: {len(content):,} bytes, {header.bits_per_dim(8 * len(content)):.3f} bits per "
            f"dimension; {net:.3f} without the {header.initial_bits:,} random bits of the first images' latents. "
            f"{header.images / seconds:.0f} images/s."
        )


def _with_labels(run: Run, images: NamedImages) -> NamedImages:
    """Check the images against a model, and label them by its classes, or not at all if it is unconditional.

    Raises:
        UserError: the images have another shape than the model's, or lack labels that it needs.
    """
    require_shape(run, images.images.shape[1:], "The images")
    if not run.class_names:
        if images.labels is not None:
            log(f"The labels are left out, since {run.name} is not conditional.")
        return images._replace(labels=None)
    labels, numbers = images.labels, range(len(run.class_names))
    if images.classes is not None and set(images.classes) <= set(run.class_names):
        labels = np.array([run.class_names.index(name) for name in images.classes])
    if labels is None or labels.shape != (len(images.images),) or not np.isin(labels, numbers).all():
        raise UserError(
            f"{run.name} is conditional, so its images need labels. Put them in folders named after their classes, "
            f"{', '.join(run.class_names)}, or use a .npz file with images and labels."
        )
    return images._replace(labels=labels)


def require_shape(run: Run, shape: tuple[int, ...], what: str) -> None:
    """Raise UserError if images do not have the model's shape."""
    expected = run.examples.shape[1:]
    if shape != expected:
        raise UserError(f"{what} are {_size(shape)}, but the model's are {_size(expected)}.")


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
