"""Bits back with asymmetric numeral systems (Townsend et al. 2019): images on a stack of bits, block by block.

To push images: pop latents under the posterior q(z | x), push the images under p(x | z), push the latents under the
prior p(z). What popping the latents takes, -log q, comes back when the images are popped: on average the images cost
minus the ELBO. In a hierarchy the latents of each layer are popped given those above it (Townsend et al. 2020).
Bit-Swap's order, which pushes a layer before it pops the next (Kingma et al. 2019), is for posteriors that begin at the
image; these begin at the top.

A block pops its latents before it pushes anything. So the first block is one image, whose latents take random bits, and
the others grow with the bits that are there.

Pushing and popping need the same digits, so both run the same compiled programs, on blocks that are made up to one of a
few sizes. Other machines round differently; in float64 by some 1e-15, which all but vanishes where parameters are
rounded.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from flax_vae.compress import stack as stacks
from flax_vae.compress.latents import (
    Normals,
    Values,
    Warped,
    in_units,
    place,
    pop_posterior,
    pop_prior,
    push_posterior,
    push_prior,
)
from flax_vae.compress.pixels import pop_pixels, push_pixels
from flax_vae.compress.stack import SPARE, Exhausted, Stack
from flax_vae.distributions import Distribution, LatentDistribution
from flax_vae.models.binding import Params, bind, with_dtype
from flax_vae.models.likelihoods import AutoregressiveLikelihood
from flax_vae.models.protocol import Inference

Images = UInt8[np.ndarray, "n h w c"]
Labels = Int[np.ndarray, " n"]
_SIZES = (1, 16, 64)  # images that the programs work on at a time: what so few pass through stays in caches
_SIZES_BY_PIXEL = (1, 16, 256)  # the same where each pixel is a program of its own, which many images share


class Block(NamedTuple):
    """How many images a block has, and how many times 16 random bits were pushed before it."""

    images: int
    filled: int


class Coder(NamedTuple):
    """A model as it codes images, all of it within `jax.enable_x64`; see `coder_of`.

    Attributes:
        vae, params: the model, in float64.
        levels: that a pixel may have, 2 or 256.
        classes: of the labels that a conditional model is given; 0 for others.
        shape: "h w c" of an image.
        latents: shapes of the latents of each layer, "1 b ..." for one image.
        sizes: images that the programs may work on at a time.
    """

    vae: nn.Module
    params: Params
    levels: int
    classes: int
    shape: tuple[int, ...]
    latents: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]


class _Inputs(NamedTuple):
    images: UInt8[np.ndarray, "b h w c"]
    context: Float[np.ndarray, "b v"] | None


class _Layer(NamedTuple):
    """A layer of a block: its prior, and its values, given the latents `above`; zeros are for those below."""

    prior: LatentDistribution
    above: Sequence[Any]
    values: Values


def coder_of(vae: nn.Module, params: Params, levels: int, classes: int, shape: tuple[int, ...]) -> Coder:
    """The model as it codes images of a shape "h w c"."""
    vae, params = with_dtype(vae, "float64"), jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    context = np.zeros((1, classes)) if classes else None

    def draw(x: Array) -> list[Array]:
        return [layer.z for layer in bind(vae, params, context).infer(x, jax.random.key(0)).layers]

    latents = tuple(z.shape for z in jax.eval_shape(draw, np.zeros((1, *shape))))
    by_pixel = isinstance(getattr(vae, "likelihood", None), AutoregressiveLikelihood)
    sizes = _SIZES_BY_PIXEL if by_pixel else _SIZES
    return Coder(vae, params, levels, classes, shape, latents, sizes)


def push_images(coder: Coder, images: Images, labels: Labels) -> Iterator[tuple[Stack, Block]]:
    """Push images, and their labels if the model is conditional: the stack after each block, and the block."""
    stack, done, count = stacks.empty(), 0, 1
    while done < len(images):
        count = min(count, len(images) - done)
        some = slice(done, done + count)
        pushed = _push_block(coder, stack, images[some], labels[some], seed=done)
        if pushed is None:
            count //= 2
            continue
        stack, block, took = pushed
        yield stack, block
        done += block.images
        count = int(np.clip(0.9 * (stack.num_valid_bits() - SPARE) / took, 1, coder.sizes[-1]))


def pop_images(coder: Coder, stack: Stack, blocks: list[Block]) -> Iterator[tuple[Images, Labels]]:
    """Pop what `push_images` pushed: the images and the labels of each block, the last one first.

    Raises:
        UserError: they are not what was pushed, since other digits were computed here.
    """
    done = sum(block.images for block in blocks)
    for block in reversed(blocks):
        done -= block.images
        try:
            yield _pop_block(coder, stack, block, seed=done)
        except Exhausted:
            raise stacks.other_digits() from None
    if not stack.is_empty():
        raise stacks.other_digits()


def _push_block(
    coder: Coder, stack: Stack, images: Images, labels: Labels, seed: int
) -> tuple[Stack, Block, float] | None:
    """The stack with one more block, that block, and the bits that the latents of each image took.

    None where there are too few bits for several images. For one image random ones are added.
    """
    count, inputs = len(images), _inputs(coder, images, labels)

    def trial(filled: int) -> tuple[Stack, list[_Layer], Sequence[Any]]:
        tried = stack.clone()
        stacks.fill(tried, filled, seed)

        def draw(prior: LatentDistribution, above: Sequence[Any], number: int) -> Values:
            posterior = _posterior(coder.vae, coder.params, inputs, above, prior, number)
            return pop_posterior(posterior, tried, above[number].shape[1:], count)

        return tried, *_layers(coder, inputs, draw)

    filled = 0
    while True:
        try:
            tried, found, z = trial(filled)
            break
        except Exhausted:
            if count > 1:
                return None
            filled += filled // 8 + 4
    took = stack.num_valid_bits() + 16 * filled - tried.num_valid_bits()
    levels = (inputs.images // _value(coder)).astype(np.int32)
    push_pixels(tried, _likelihood(coder.vae, coder.params, inputs, z), levels, count)
    for layer in reversed(found):
        push_prior(layer.prior, tried, layer.values, count)
    if coder.classes:
        stacks.push_choices(tried, labels, _equal(count, coder.classes))
    return tried, Block(count, filled), took / count


def _pop_block(coder: Coder, stack: Stack, block: Block, seed: int) -> tuple[Images, Labels]:
    count, classes = block.images, coder.classes
    labels = stacks.pop_choices(stack, _equal(count, classes)) if classes else np.zeros(count, np.int32)
    unknown = _inputs(coder, np.zeros((count, *coder.shape), np.uint8), labels)

    def draw(prior: LatentDistribution, above: Sequence[Any], number: int) -> Values:
        return pop_prior(prior, stack, above[number].shape[1:], count)

    found, z = _layers(coder, unknown, draw)
    levels = pop_pixels(stack, _likelihood(coder.vae, coder.params, unknown, z), unknown.images.shape, count)
    images = (levels[:count] * _value(coder)).astype(np.uint8)
    inputs = _inputs(coder, images, labels)
    for number, layer in reversed(list(enumerate(found))):
        posterior = _posterior(coder.vae, coder.params, inputs, layer.above, layer.prior, number)
        push_posterior(posterior, stack, layer.values, count)
    stacks.unfill(stack, block.filled, seed)
    return images, labels


def _layers(
    coder: Coder, inputs: _Inputs, draw: Callable[[LatentDistribution, Sequence[Any], int], Values]
) -> tuple[list[_Layer], Sequence[Any]]:
    """The layers, top first, each with the values that are drawn given those above; and the latents of all."""
    z: list[Any] = [np.zeros((1, len(inputs.images), *shape[2:])) for shape in coder.latents]
    found = []
    for number in range(len(z)):
        above = tuple(z)
        prior = _prior(coder.vae, coder.params, inputs, above, number)
        found.append(_Layer(prior, above, draw(prior, above, number)))
        z[number] = place(prior, found[-1].values, above[number])
    return found, tuple(z)


@partial(jax.jit, static_argnums=(0, 4))
def _prior(vae: nn.Module, params: Params, inputs: _Inputs, z: Sequence[Array], number: int) -> LatentDistribution:
    """A layer's prior, given the latents above."""
    return _infer(vae, params, inputs, z).layers[number].prior


@partial(jax.jit, static_argnums=(0, 5))
def _posterior(
    vae: nn.Module, params: Params, inputs: _Inputs, z: Sequence[Array], prior: LatentDistribution, number: int
) -> Normals | Warped:
    """A layer's posterior, given the latents above and the images, in units of its prior."""
    return in_units(_infer(vae, params, inputs, z).layers[number].posterior, prior)


@partial(jax.jit, static_argnums=0)
def _likelihood(vae: nn.Module, params: Params, inputs: _Inputs, z: Sequence[Array]) -> Distribution:
    """p(x | z), batch shape "1 b"."""
    return _infer(vae, params, inputs, z).likelihood


def _infer(vae: nn.Module, params: Params, inputs: _Inputs, z: Sequence[Array]) -> Inference:
    """All of the model; XLA leaves out what a program does not return."""
    return bind(vae, params, inputs.context).infer_at(inputs.images.astype(jnp.float64) / 255, tuple(z))


def _inputs(coder: Coder, images: Images, labels: Labels) -> _Inputs:
    """A whole block: images of zeros follow those that there are."""
    missing = next(size for size in coder.sizes if size >= len(images)) - len(images)
    context = np.eye(coder.classes)[np.pad(labels, (0, missing))] if coder.classes else None
    return _Inputs(np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))), context)


def _value(coder: Coder) -> int:
    """Of level 1, in a uint8 image."""
    return 255 // (coder.levels - 1)


def _equal(count: int, classes: int) -> Any:
    """Equal weights of all classes, for each image."""
    return np.ones((count, classes), np.float32)
