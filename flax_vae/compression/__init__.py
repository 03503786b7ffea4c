"""Lossless image compression with a trained model, at a cost of minus its ELBO in bits."""

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Shaped

from flax_vae.compression import container, stack
from flax_vae.compression.blocks import Block, Images, Labels, coder_of, pop_images, push_images
from flax_vae.compression.container import Header
from flax_vae.models.binding import Params
from flax_vae.system.console import progress
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default

__all__ = ["Header", "compress", "decompress", "read_header"]


@by_default
def compress(
    model: nn.Module,
    params: Params,
    images: Images,
    labels: Shaped[np.ndarray, " n"] | None = None,
    classes: int = 0,
    names: tuple[str, ...] = (),
    model_name: str = "",
    dtypes: tuple[str, ...] = (),
) -> bytes:
    """Compress images losslessly by bits-back coding (Townsend et al. 2019).

    An image costs minus the model's ELBO on average. In addition, the latents of the first images cost some bits, once
    per file. The computation is in float64, by jitted programs on blocks of images.

    Args:
        model, params: the model; its pixels have 2 or 256 levels.
        images: uint8 images; only 0 and 255 if the model's pixels have 2 levels.
        labels, classes: for a conditional model, the labels of the images, and the number of classes.
        names, model_name: names of the images and of the model, which the file holds.
        dtypes: the dtypes of the array that the images are from; see `Header`.

    Returns:
        The content of the file.

    Raises:
        UserError: the model cannot compress images, or cannot compress these.
    """
    levels = _levels_of(model, images)
    _refuse_diverged(params)
    labels = np.zeros(len(images), np.int32) if labels is None else labels.astype(np.int32)
    with jax.enable_x64(True):
        coder = coder_of(model, params, levels, classes, images.shape[1:])
        steps, blocks = push_images(coder, images, labels), []
        for pushed in progress(steps, len(images), "Compressing", lambda pushed: pushed[1].images):
            blocks.append(pushed[1])
    header = Header(
        model=container.model_checksum(params),
        name=model_name,
        content=container.content_checksum(images, labels),
        shape=images.shape[1:],
        levels=levels,
        classes=classes,
        counts=tuple(block.images for block in blocks),
        filled=tuple(block.filled for block in blocks),
        names=names,
        jax=jax.__version__,
        dtypes=dtypes,
    )
    return container.write(header, pushed[0].get_compressed())


@by_default
def decompress(
    model: nn.Module, params: Params, content: bytes, name: str = "the file"
) -> tuple[Images, Labels | None, Header]:
    """Restore images that `compress` compressed.

    Args:
        model, params: the model that compressed them.
        content: the content of the file.
        name: the name of the file in errors.

    Returns:
        The images, their labels or None, and the header of the file.

    Raises:
        UserError: the file is damaged or not a compressed file, the model is another one, or this machine rounds
            differently.
    """
    header, words = container.read(content, name)
    if header.model != container.model_checksum(params):
        raise UserError(
            f"{name} was compressed by another model, {header.name or 'unnamed'} with checksum {header.model}. Use "
            f"that model; the checksum of this one is {container.model_checksum(params)}."
        )
    blocks = [Block(*block) for block in zip(header.counts, header.filled, strict=True)]
    with jax.enable_x64(True):
        coder = coder_of(model, params, header.levels, header.classes, header.shape)
        popped = pop_images(coder, stack.AnsCoder(words), blocks)
        parts = list(progress(popped, header.images, "Decompressing", lambda item: len(item[0])))
    images, labels = (np.concatenate(part[::-1]) for part in zip(*parts, strict=True))
    if container.content_checksum(images, labels) != header.content:
        raise stack.rounding_error()
    return images, labels if header.classes else None, header


def read_header(content: bytes, name: str = "the file") -> Header:
    """Read the header of a compressed file, which needs no model.

    Raises:
        UserError: the file is damaged or not a compressed file.
    """
    return container.read(content, name)[0]


def _levels_of(model: nn.Module, images: Images) -> int:
    """Return the number of pixel levels of the model.

    Raises:
        UserError: the model's likelihood is a density, or the images do not have its pixel levels.
    """
    levels = getattr(getattr(model, "likelihood", None), "pixel_levels", None)
    if levels is None:
        raise UserError(
            "Only a model with discrete pixels can compress images. Use a likelihood of 2 or 256 pixel levels, such as "
            "bernoulli or logistic_mixture, or pretrained:grey."
        )
    if images.dtype != np.uint8:
        raise UserError(f"Images are {images.dtype}; only uint8 from 0 to 255 can be compressed and restored exactly.")
    if not len(images):
        raise UserError("There are no images to compress.")
    if levels == 2 and not np.isin(images, (0, 255)).all():
        raise UserError(
            "The model's pixels are black or white, but these images have values between. Use a model of 256 pixel "
            "levels, such as pretrained:grey, or binarise the images."
        )
    return levels


def _refuse_diverged(params: Params) -> None:
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise UserError("The model's parameters are not finite: its training diverged.")
