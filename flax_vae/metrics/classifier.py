"""A small classifier, whose features the Fréchet distance compares.

It is not trained by `make_train_step`: gradients of microbatches are averaged in the same order on any number of
devices, so that the features, and with them the distances, do not depend on that number. With JAX 0.8 this holds up to
rounding, since it compiles convolutions differently for another number of devices.
"""

from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, UInt8

from flax_vae.batches import Images, StoredImages, epoch_indices, to_float
from flax_vae.metrics.objective_means import in_blocks
from flax_vae.models.binding import Params
from flax_vae.nn.convolutions import max_pool
from flax_vae.nn.layers import Conv, dense, flat, space_to_depth
from flax_vae.nn.module import Module
from flax_vae.system.console import progress
from flax_vae.system.settings import by_default
from flax_vae.training.optimizers import make_optimizer
from flax_vae.training.sharding import DATA_AXIS, EVERYWHERE, data_mesh, shardings

_GRID = 16  # patches along the longer side of an image, at most
_LEARNING_RATE = 2e-2  # of Muon
_AT_ONCE = 20  # images per gradient computation, so that activations fit in a core's cache
_BATCH = 200
_STEPS_PER_DISPATCH = 20
_MAX_DISPATCHES = 30


class ConvClassifier(Module):
    """Convolutions with ReLU and 2x2 max-pooling on patches of the image, then 64 dense features with SiLU.

    With ReLU, some features would be 0 for all images. Patches are so large that at most 16 fit along a side, so
    that large images take little longer than small ones.
    """

    classes: int
    channels: tuple[int, ...] = (16, 32, 64)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Return logits of the classes and the 64 features, for images in [0, 1] of any size."""
        x = space_to_depth(x - 0.5, -(-max(x.shape[1:3]) // _GRID))
        for channels in self.channels:
            x = max_pool(nn.relu(Conv(channels)(x)))
        features = nn.silu(dense(64)(flat(x)))
        return dense(self.classes)(features), features


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier, with the description that is reported with its scores.

    Attributes:
        module, params: the Linen module and its parameters.
        classes: the label of each logit.
        name: a description, with the number of training images.
        seed: seed of the initial parameters and of the order of the images.
    """

    module: ConvClassifier
    params: Params
    classes: Int[np.ndarray, " k"]
    name: str
    seed: int


@by_default
def train_classifier(images: StoredImages, labels: Int[np.ndarray, " n"], seed: int) -> Classifier:
    """Train a classifier, deterministically, on images with arbitrary integer labels.

    A batch has 200 images (fewer for small sets, in multiples of 20), split between devices. Training takes 600 steps,
    i.e. two epochs of 60,000 images, or 20 epochs, whichever is less.
    """
    at_once = min(_AT_ONCE, len(images))
    batch_size = at_once * min(_BATCH // at_once, len(images) // at_once)
    steps = _STEPS_PER_DISPATCH * min(_MAX_DISPATCHES, len(images) // batch_size)
    classes, targets = np.unique(labels, return_inverse=True)
    module = ConvClassifier(len(classes))
    mesh = data_mesh(batch_size // at_once)
    carry = jax.device_put(_start(module, steps, jax.random.key(seed), images[:1]), shardings(mesh)[0])
    epochs = (epoch_indices(len(images), batch_size, seed, epoch) for epoch in count())
    order = np.stack(list(islice(chain.from_iterable(epochs), steps)))
    dispatches = order.reshape(-1, _STEPS_PER_DISPATCH, batch_size // at_once, at_once)
    for indices in progress(dispatches, len(dispatches), "training a classifier"):
        carry = jax.block_until_ready(_advance(module, steps, mesh, carry, images[indices], targets[indices]))
    widths = "-".join(map(str, module.channels))
    return Classifier(module, jax.device_get(carry[0]), classes, f"conv {widths} on {len(images):,} images", seed)


def _optimizer(steps: int) -> optax.GradientTransformation:
    return make_optimizer("muon", _LEARNING_RATE, steps, steps // 8, "cosine")


@partial(jax.jit, static_argnums=(0, 1))
def _start(module: ConvClassifier, steps: int, key: Key[Array, ""], images: Images) -> tuple[Any, Any]:
    """Return the parameters and the state of the optimiser before the first step."""
    params = module.init(key, to_float(images))["params"]
    return params, _optimizer(steps).init(params)


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _advance(
    module: ConvClassifier,
    steps: int,
    mesh: Mesh | None,
    carry: tuple[Any, Any],
    images: UInt8[Array, "s m b h w c"],
    labels: Int[Array, "s m b"],
) -> tuple[Any, Any]:
    """Take s steps, each on m microbatches, which are split between the devices of a mesh."""

    def mean_loss(params: Params, images: Array, labels: Array) -> Array:
        logits, _ = module.apply({"params": params}, to_float(images))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def mean_gradient(params: Params, batch: tuple[Array, Array]) -> Params:
        grads = jax.lax.map(lambda microbatch: jax.grad(mean_loss)(params, *microbatch), batch)
        if mesh:
            grads = jax.lax.all_gather(grads, DATA_AXIS, tiled=True)
        return jax.tree.map(lambda leaf: leaf.mean(0), grads)

    if mesh:
        shared = PartitionSpec(DATA_AXIS)
        mean_gradient = jax.shard_map(
            mean_gradient, mesh=mesh, in_specs=(EVERYWHERE, shared), out_specs=EVERYWHERE, check_vma=False
        )

    def step(carry: tuple[Any, Any], batch: tuple[Array, Array]) -> tuple[tuple[Any, Any], None]:
        params, opt_state = carry
        updates, opt_state = _optimizer(steps).update(mean_gradient(params, batch), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, carry, (images, labels))[0]


@partial(jax.jit, static_argnums=0)
def _outputs(module: ConvClassifier, params: Params, images: Images) -> tuple[Float[Array, "n k"], Float[Array, "n f"]]:
    """Return the logits and features of all images, of which only a few are held as floats at a time."""

    def one_image(image: Array) -> tuple[Array, Array]:
        outputs: Any = module.apply({"params": params}, to_float(image[None]))
        return outputs[0][0], outputs[1][0]

    return jax.lax.map(one_image, images, batch_size=_AT_ONCE)


@by_default
def accuracy(classifier: Classifier, images: StoredImages, labels: Int[np.ndarray, " n"]) -> float:
    """Return the classification accuracy; labels unseen in training count as errors."""
    predictions = []
    for block, size in in_blocks(images, _AT_ONCE):
        logits, _ = _outputs(classifier.module, classifier.params, block.reshape(-1, *block.shape[2:]))
        predictions.append(np.argmax(logits, -1)[:size])
    return float((classifier.classes[np.concatenate(predictions)] == labels).mean())


@by_default
def features(classifier: Classifier, images: Images) -> Float[np.ndarray, "n f"]:
    """Return the 64 features of each image, uint8 or floats in [0, 1], from which the classifier predicts its class."""
    return np.asarray(_outputs(classifier.module, classifier.params, images)[1])
