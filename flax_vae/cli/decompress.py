"""`flax-vae decompress`: images from a file.

examples:
  flax-vae decompress pretrained:grey photos.fvae -o photos/
  flax-vae decompress pretrained:grey images.fvae -o images.npy
  flax-vae decompress --info photos.fvae
"""

import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from flax_vae.cli.arguments import PIPE, OutPath, Overwrite, OwnParts, require_parent, require_writable
from flax_vae.cli.compress import require_shape
from flax_vae.compression import Header, decompress, read_header
from flax_vae.data.image_files import NamedImages, is_one_file, write_images
from flax_vae.system.console import print_result
from flax_vae.system.errors import UserError
from flax_vae.system.machine import use_machine


@dataclass(frozen=True)
class Decompress:
    """Restore the images of a compressed file, with the model that compressed them."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """The model that compressed the images."""
    file: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The file, or - for standard input."""
    out: OutPath = Path("images")
    """New directory for PNG files; or a .npy, .npz or (for one image) .png file.
    Or - for a .npy array on standard output."""
    overwrite: Overwrite = False
    info: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Describe this file; needs no model."""
    own: OwnParts = field(default_factory=OwnParts)

    def __call__(self) -> None:
        """Run the command."""
        if self.info is not None:
            content = _read(self.info)
            return _describe(read_header(content, str(self.info)), len(content))
        if self.run is None or self.file is None:
            raise UserError("flax-vae decompress needs a model and a file, or --info FILE.")
        content = _read(self.file)
        header = read_header(content, str(self.file))
        if self.out != PIPE:
            _require_output(self.out, header.images, self.overwrite)
        use_machine()
        run = self.own.load_run(self.run)
        require_shape(run, header.shape, f"The images of {self.file}")
        images, labels, _ = decompress(run.model, run.params, content, str(self.file))
        image_dtype, label_dtype = header.dtypes or ("", "<i4")
        labels = None if labels is None else labels.astype(label_dtype)
        restored = NamedImages(images, header.names, labels=labels, array_dtype=image_dtype)
        if self.out == PIPE:
            array = io.BytesIO()  # NumPy itself cannot write to a pipe that is buffered
            np.save(array, restored.array)
            sys.stdout.buffer.write(array.getvalue())
        else:
            write_images(self.out, restored)
            print_result(self.out)


def _require_output(out: Path, count: int, overwrite: bool) -> None:
    """Raise UserError if `count` images cannot be written to a path, before any work is done."""
    if is_one_file(out):
        require_writable(out, overwrite)
        if out.suffix.lower() == ".png" and count > 1:
            raise UserError(f"{out} can hold one image, but the file holds {count}. Name a directory or a .npy file.")
    else:
        require_parent(out)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} already exists. Name a new or empty directory, or a .npy file.")


def _read(path: Path) -> bytes:
    if path == PIPE:
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _describe(header: Header, size: int) -> None:
    """Print the header of a file of `size` bytes."""
    height, width, channels = header.shape
    lines = {
        "images": f"{header.images:,}, {height} x {width} x {channels}, {header.levels} levels",
        "model": f"{header.name or 'unnamed'}, checksum {header.model}",
        "size": f"{size:,} bytes, {header.bits_per_dim(8 * size):.3f} bits per dimension",
        "without initial bits": f"{header.bits_per_dim(8 * size - header.initial_bits):.3f} bits per dimension",
        "content": f"checksum {header.content}",
        "jax": header.jax,
    }
    for name, value in lines.items():
        print_result(f"{name:22}{value}")
