"""`flax-vae compress` and `flax-vae decompress`: images to a file, and back."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import tyro

from flax_vae.cli.exits import refuse_unwritable
from flax_vae.compress import Header, compress, decompress, read_header
from flax_vae.data.image_files import NamedImages, is_one_file, read_images, write_images
from flax_vae.runs.run import Run, load_run, run_data
from flax_vae.system.console import log, print_result
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically
from flax_vae.system.machine import use_machine

_PIPE = Path("-")


@dataclass(frozen=True)
class Compress:
    """Compress images losslessly, at a cost of minus the model's ELBO in bits. The model's pixels have to be binary or
    to have 256 levels."""

    examples: ClassVar[str] = """
examples:
  flax-vae compress pretrained:grey                          the test images of the model, to images.fvae
  flax-vae compress pretrained:grey photos/ more.png -o photos.fvae
  flax-vae compress pretrained:grey - -o - < images.npy > images.fvae
"""

    run: tyro.conf.Positional[Path]
    """Run directory of train.py; a .safetensors file; or pretrained:NAME."""
    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """PNG, JPEG or WebP files, folders of them, a .npy or .npz file, or - for a .npy array on standard input; by
    default the test images of the run."""
    out: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("images.fvae")
    """File to write, or - for standard output."""

    def __call__(self) -> None:
        """Run the command."""
        if self.out != _PIPE:
            refuse_unwritable(self.out, "")
        stdin = sys.stdin.buffer.read() if self.images == (_PIPE,) else None
        use_machine()
        run = load_run(self.run)
        named = (
            _with_labels(run, read_images(self.images, run.examples.shape[-1], stdin)) if self.images else _test(run)
        )
        started = time.monotonic()
        content = compress(
            run.vae, run.params, named.images, named.labels, len(run.class_names), named.names, self.run.name
        )
        seconds = time.monotonic() - started
        _write(self.out, content)
        header = read_header(content)
        net = header.bits_per_dim(8 * len(content) - header.initial_bits)
        log(
            f"{header.images:,} images: {len(content):,} bytes, {header.bits_per_dim(8 * len(content)):.3f} bits per "
            f"dimension; {net:.3f} without the {header.initial_bits:,} random bits of the first images' latents. "
            f"{header.images / seconds:.0f} images/s."
        )


@dataclass(frozen=True)
class Decompress:
    """Restore the images of a compressed file, with the model that compressed them."""

    examples: ClassVar[str] = """
examples:
  flax-vae decompress pretrained:grey photos.fvae -o photos/
  flax-vae decompress pretrained:grey images.fvae -o images.npy
  flax-vae decompress --info photos.fvae
"""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None
    """The model that compressed them."""
    file: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None
    """The file, or - for standard input."""
    out: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("images")
    """New directory for PNG files; a .npy or .npz file; a .png file for a single image; or - for a .npy array on
    standard output."""
    info: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="")] = None
    """Describe this file; needs no model."""

    def __call__(self) -> None:
        """Run the command."""
        if self.info is not None:
            content = _read(self.info)
            return _show(read_header(content, str(self.info)), len(content))
        if self.run is None or self.file is None:
            raise UserError("flax-vae decompress needs a model and a file, or --info FILE.")
        content = _read(self.file)
        header = read_header(content, str(self.file))
        if self.out != _PIPE:
            _refuse_output(self.out, header.images)
        use_machine()
        run = load_run(self.run)
        _refuse_shape(run, header.shape, f"The images of {self.file}")
        images, labels, _ = decompress(run.vae, run.params, content, str(self.file))
        if self.out == _PIPE:
            np.save(sys.stdout.buffer, images)
        else:
            write_images(self.out, NamedImages(images, header.names, labels=labels))
            print_result(self.out)


def _refuse_output(out: Path, count: int) -> None:
    """Raise UserError early if `count` restored images cannot be written."""
    refuse_unwritable(out, "")
    if is_one_file(out):
        if out.is_dir():
            raise UserError(f"{out} is a directory. Name a file.")
        if out.suffix.lower() == ".png" and count > 1:
            raise UserError(f"{out} can hold one image, but the file holds {count}. Name a directory or a .npy file.")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists. Name a new or empty directory, or a .npy file.")


def _test(run: Run) -> NamedImages:
    """Return the test images of a run, with their labels if the model is conditional."""
    test = run_data(run).test
    return NamedImages(np.asarray(test.images), labels=test.labels if run.class_names else None)


def _with_labels(run: Run, named: NamedImages) -> NamedImages:
    """Return images with the labels that a conditional model needs, or without labels.

    Raises:
        UserError: the images have another shape than the model's, or lack the labels.
    """
    _refuse_shape(run, named.images.shape[1:], "The images")
    if not run.class_names:
        return named._replace(labels=None)
    labels = named.labels
    if named.classes is not None and set(named.classes) <= set(run.class_names):
        labels = np.array([run.class_names.index(name) for name in named.classes])
    if labels is None or labels.shape != (len(named.images),) or not np.isin(labels, range(len(run.class_names))).all():
        raise UserError(
            f"{run.name} is conditional, so its images need labels. Put them in folders named after their classes, "
            f"{', '.join(run.class_names)}, or use a .npz file with images and labels."
        )
    return named._replace(labels=labels)


def _refuse_shape(run: Run, shape: tuple[int, ...], what: str) -> None:
    """Raise UserError if images do not have the model's shape."""
    expected = run.examples.shape[1:]
    if shape != expected:
        sizes = (" x ".join(map(str, size)) for size in (shape, expected))
        raise UserError("{} are {}, but the model's are {}.".format(what, *sizes))


def _read(path: Path) -> bytes:
    if path == _PIPE:
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _write(path: Path, content: bytes) -> None:
    if path == _PIPE:
        sys.stdout.buffer.write(content)
        return
    write_atomically(path, lambda part: part.write_bytes(content))


def _show(header: Header, size: int) -> None:
    """Print the header of a file."""
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
