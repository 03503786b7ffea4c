"""Images compressed without loss by a trained model, to as many bits as its negative ELBO says."""

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Int, UInt8

from flax_vae.compress import container, stack
from flax_vae.compress.blocks import Block, coder_of, pop_images, push_images
from flax_vae.compress.container import Header
from flax_vae.models.binding import Params
from flax_vae.system.console import progress
from flax_vae.system.errors import UserError

__all__ = ["Header", "compress", "decompress", "read_header"]

Images = UInt8[np.ndarray, "n h w c"]
Labels = Int[np.ndarray, " n"]


def compress(
    vae: nn.Module,
    params: Params,
    images: Images,
    labels: Labels | None = None,
    classes: int = 0,
    names: tuple[str, ...] = (),
    model_name: str = "",
) -> bytes:
    """Images as a file that `decompress` restores to the last bit, by bits-back coding (Townsend et al. 2019).

    On average an image takes minus the model's ELBO; the first ones take the bits of their latents as well, once. It is
    computed in float64, as jitted programs on blocks of images.

    Args:
        vae, params: the model, with a likelihood of 2 or 256 levels.
        images: of 2 levels, black and white, 0 and 255, where the model's pixels are 0 or 1.
        labels, classes: of the images, from 0 to `classes` - 1, where the model is conditional; kept with the images.
        names: of the images, kept with them.
        model_name: what the file calls the model.

    Raises:
        UserError: images or a model of another kind.
    """
    levels = _levels_of(vae, images)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise UserError("The model's parameters are not finite: the training diverged.")
    labels = np.zeros(len(images), np.int32) if labels is None else labels.astype(np.int32)
    with jax.enable_x64(True):
        coder = coder_of(vae, params, levels, classes, images.shape[1:])
        steps, blocks = push_images(coder, images, labels), []
        for pushed in progress(steps, len(images), "Compressing", lambda pushed: pushed[1].images):
            blocks.append(pushed[1])
    header = Header(
        model=container.sum_of_model(params),
        name=model_name,
        content=container.sum_of_content(images, labels),
        shape=images.shape[1:],
        levels=levels,
        classes=classes,
        counts=tuple(block.images for block in blocks),
        filled=tuple(block.filled for block in blocks),
        names=names,
        jax=jax.__version__,
    )
    return container.write(header, pushed[0].get_compressed())


def decompress(
    vae: nn.Module, params: Params, content: bytes, name: str = "the file"
) -> tuple[Images, Labels | None, Header]:
    """The images that `compress` was given, their labels if it was given any, and what else the file says.

    Args:
        vae, params: the model that compressed them.
        content: the file.
        name: what it is called in an error.

    Raises:
        UserError: a file that is damaged or none, another model, or a machine that computes other digits.
    """
    header, words = container.read(content, name)
    if header.model != container.sum_of_model(params):
        called = f" {header.name}" if header.name else ""
        raise UserError(
            f"{name} was compressed by another model,{called} with the sum {header.model}: name that one. The sum of "
            f"this one is {container.sum_of_model(params)}."
        )
    blocks = [Block(*each) for each in zip(header.counts, header.filled, strict=True)]
    with jax.enable_x64(True):
        coder = coder_of(vae, params, header.levels, header.classes, header.shape)
        popped = pop_images(coder, stack.from_words(words), blocks)
        parts = list(progress(popped, header.images, "Decompressing", lambda item: len(item[0])))
    images, labels = (np.concatenate(part[::-1]) for part in zip(*parts, strict=True))
    if container.sum_of_content(images, labels) != header.content:
        raise stack.other_digits()
    return images, labels if header.classes else None, header


def read_header(content: bytes, name: str = "the file") -> Header:
    """What a compressed file says of itself.

    Raises:
        UserError: it is damaged or none.
    """
    return container.read(content, name)[0]


def _levels_of(vae: nn.Module, images: Images) -> int:
    """How many values a pixel of the model may have.

    Raises:
        UserError: a model of densities, or images of other values.
    """
    levels = getattr(getattr(vae, "likelihood", None), "pixel_levels", None)
    if levels is None:
        raise UserError(
            "Only a model whose pixels have levels compresses images: one of binary pixels, or of 256 levels, such as "
            "--likelihood logistic_mixture, or pretrained:grey."
        )
    if not len(images):
        raise UserError("There are no images to compress.")
    if levels == 2 and not np.isin(images, (0, 255)).all():
        raise UserError(
            "The model's pixels are 0 or 1, and these images have values between: take a model of 256 levels, such as "
            "pretrained:grey, or make them black and white."
        )
    return levels
