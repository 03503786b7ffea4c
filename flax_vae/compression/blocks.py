"""Bits-back coding with asymmetric numeral systems (Townsend et al. 2019): blocks of images on a stack of bits.

To push images: pop latents under the posterior q(z | x), push the images under p(x | z), push the latents under the
prior p(z). Popping the latents consumes -log q bits, which popping the images returns, so that images cost minus the
ELBO on average. In a hierarchy, the latents of each layer are popped given those above it (Townsend et al. 2020).
Bit-Swap's order, which pushes a layer before it pops the next (Kingma et al. 2019), is for posteriors that begin at the
image; these begin at the top.

A block pops its latents before it pushes anything, so the first block is a single image, whose latents consume random
bits; later blocks grow with the bits on the stack.

Pushing and popping have to agree to the last bit, so both run the same compiled programs, on blocks padded to one of a
few sizes. Other machines round differently, in float64 by about 1e-15; rounding the parameters removes almost all of
these differences.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from flax_vae.compression import latents
from flax_vae.compression import stack as stacks
from flax_vae.compression.pixels import pop_pixels, push_pixels
from flax_vae.compression.stack import SPARE, AnsCoder, Exhausted, Stack
from flax_vae.distributions import Distribution, LatentDistribution
from flax_vae.models.binding import Params, bind, with_dtype
from flax_vae.models.layerwise import layer_shapes
from flax_vae.models.protocol import Inference
from flax_vae.nn.layers import ImageShape

Images = UInt8[np.ndarray, "n h w c"]
Labels = Int[np.ndarray, " n"]
_SIZES = (1, 16, 64)  # block sizes, small enough for activations to stay in cache
_SIZES_BY_PIXEL = (1, 16, 256)  # if each pixel is a call of its own, larger blocks share its overhead


class Block(NamedTuple):
    """A block: the number of its images, and the number of 16-bit random words pushed before it."""

    images: int
    filled: int


class Coder(NamedTuple):
    """A model prepared for coding; use it within `jax.enable_x64`. See `coder_of`.

    Attributes:
        model, params: the model, in float64.
        levels: the number of pixel levels, 2 or 256.
        classes: the number of classes of a conditional model, or 0.
        shape: the shape "h w c" of an image.
        latents: the shape of the latents of each layer, without batch axes, top first.
        sizes: the block sizes for which programs are compiled.
    """

    model: nn.Module
    params: Params
    levels: int
    classes: int
    shape: ImageShape
    latents: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]


class _Inputs(NamedTuple):
    images: UInt8[np.ndarray, "b h w c"]
    context: Float[np.ndarray, "b v"] | None


class _Layer(NamedTuple):
    """A stochastic layer of a block.

    Attributes:
        z: the latents of all layers; zeros from this layer on.
        prior: the prior of this layer, given those above.
        values: the latents of this layer, in steps.
    """

    z: Sequence[Any]
    prior: LatentDistribution
    values: latents.Values


def coder_of(model: nn.Module, params: Params, levels: int, classes: int, shape: ImageShape) -> Coder:
    """Prepare a model for coding images of shape "h w c"."""
    model, params = with_dtype(model, "float64"), jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    events = tuple(layer.event for layer in layer_shapes(model, params, shape, classes))
    by_pixel = getattr(getattr(model, "likelihood", None), "sequential", False)
    return Coder(model, params, levels, classes, shape, events, _SIZES_BY_PIXEL if by_pixel else _SIZES)


def push_images(coder: Coder, images: Images, labels: Labels) -> Iterator[tuple[Stack, Block]]:
    """Push images, and their labels if the model is conditional; yield the stack after each block, and the block."""
    stack, done, count = AnsCoder(), 0, 1
    while done < len(images):
        count = min(count, len(images) - done)
        rows = slice(done, done + count)
        pushed = _push_block(coder, stack, images[rows], labels[rows], seed=done)
        if pushed is None:
            count //= 2
            continue
        stack, block, bits_per_image = pushed
        yield stack, block
        done += block.images
        count = int(np.clip(0.9 * (stack.num_valid_bits() - SPARE) / bits_per_image, 1, coder.sizes[-1]))


def pop_images(coder: Coder, stack: Stack, blocks: list[Block]) -> Iterator[tuple[Images, Labels]]:
    """Pop the images and the labels that `push_images` pushed, block by block, the last block first.

    Raises:
        UserError: this machine rounds differently, and cannot restore the images.
    """
    done = sum(block.images for block in blocks)
    for block in reversed(blocks):
        done -= block.images
        try:
            yield _pop_block(coder, stack, block, seed=done)
        except Exhausted:
            raise stacks.rounding_error() from None
    if not stack.is_empty():
        raise stacks.rounding_error()


def _push_block(
    coder: Coder, stack: Stack, images: Images, labels: Labels, seed: int
) -> tuple[Stack, Block, float] | None:
    """Push a block to a copy of the stack, with random bits if the stack has too few for the latents of one image.

    Returns:
        The copy, the block, and the bits that the latents of an image took; None if the block has several images and
        the stack too few bits for them.
    """
    count, inputs = len(images), _inputs(coder, images, labels)

    def draw(number: int, z: Sequence[Any], prior: LatentDistribution) -> latents.Values:
        posterior = _posterior(coder.model, coder.params, inputs, z, prior, number)
        return posterior.pop(left, z[number].shape[1:], count)

    filled = 0
    while True:
        left = stack.clone()
        stacks.fill(left, filled, seed)
        try:
            layers, z = _layers(coder, inputs, draw)
            break
        except Exhausted:
            if count > 1:
                return None
            filled += filled // 8 + 4
    bits = stack.num_valid_bits() + 16 * filled - left.num_valid_bits()
    levels = (inputs.images // _value(coder)).astype(np.int32)
    push_pixels(left, _likelihood(coder.model, coder.params, inputs, z), levels, count)
    for layer in reversed(layers):
        latents.push_prior(layer.prior, left, layer.values, count)
    if coder.classes:
        stacks.push_choices(left, labels, np.ones((count, coder.classes)))
    return left, Block(count, filled), bits / count


def _pop_block(coder: Coder, stack: Stack, block: Block, seed: int) -> tuple[Images, Labels]:
    count, classes = block.images, coder.classes
    labels = stacks.pop_choices(stack, np.ones((count, classes))) if classes else np.zeros(count, np.int32)
    blank = _inputs(coder, np.zeros((count, *coder.shape), np.uint8), labels)

    def draw(number: int, z: Sequence[Any], prior: LatentDistribution) -> latents.Values:
        return latents.pop_prior(prior, stack, z[number].shape[1:], count)

    layers, z = _layers(coder, blank, draw)
    levels = pop_pixels(stack, _likelihood(coder.model, coder.params, blank, z), blank.images.shape, count)
    images = (levels[:count] * _value(coder)).astype(np.uint8)
    inputs = _inputs(coder, images, labels)
    for number, layer in reversed(list(enumerate(layers))):
        posterior = _posterior(coder.model, coder.params, inputs, layer.z, layer.prior, number)
        posterior.push(stack, layer.values, count)
    stacks.unfill(stack, block.filled, seed)
    return images, labels


def _layers(
    coder: Coder, inputs: _Inputs, draw: Callable[[int, Sequence[Any], LatentDistribution], latents.Values]
) -> tuple[list[_Layer], Sequence[Any]]:
    """Draw the values of each layer given those above; return the layers, top first, and the latents of all layers.

    Args:
        coder: the model.
        inputs: the images, blank if they are not known yet, and their context.
        draw: (number of a layer, latents of all layers, prior of the layer) -> its values.
    """
    layers: list[_Layer] = []
    z: tuple[Any, ...] = tuple(np.zeros((1, len(inputs.images), *shape)) for shape in coder.latents)
    for number in range(len(z)):
        prior = _prior(coder.model, coder.params, inputs, z, number)
        layers.append(_Layer(z, prior, draw(number, z, prior)))
        z = (*z[:number], latents.place(prior, layers[-1].values, z[number]), *z[number + 1 :])
    return layers, z


@partial(jax.jit, static_argnums=(0, 4))
def _prior(model: nn.Module, params: Params, inputs: _Inputs, z: Sequence[Array], number: int) -> LatentDistribution:
    """Return a layer's prior, given the latents above."""
    return _infer(model, params, inputs, z).layers[number].prior


@partial(jax.jit, static_argnums=(0, 5))
def _posterior(
    model: nn.Module, params: Params, inputs: _Inputs, z: Sequence[Array], prior: LatentDistribution, number: int
) -> latents.Normals | latents.Warped:
    """Return a layer's posterior, given the latents above and the images, in units of its prior."""
    return latents.in_units(_infer(model, params, inputs, z).layers[number].posterior, prior)


@partial(jax.jit, static_argnums=0)
def _likelihood(model: nn.Module, params: Params, inputs: _Inputs, z: Sequence[Array]) -> Distribution:
    """Return p(x | z), batch shape "1 b"."""
    return _infer(model, params, inputs, z).likelihood


def _infer(model: nn.Module, params: Params, inputs: _Inputs, z: Sequence[Array]) -> Inference:
    """Run the model; XLA removes what a program does not return."""
    return bind(model, params, inputs.context).infer_at(inputs.images.astype(jnp.float64) / 255, tuple(z))


def _inputs(coder: Coder, images: Images, labels: Labels) -> _Inputs:
    """Pad a block with blank images."""
    missing = next(size for size in coder.sizes if size >= len(images)) - len(images)
    context = np.eye(coder.classes)[np.pad(labels, (0, missing))] if coder.classes else None
    return _Inputs(np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))), context)


def _value(coder: Coder) -> int:
    """Return the value of level 1 in a uint8 image."""
    return 255 // (coder.levels - 1)
