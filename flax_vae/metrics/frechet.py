"""How far samples lie from images: the Fréchet distance in the features of a classifier trained on the same images."""

from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, UInt8

from flax_vae.batches import Images, StoredImages, epoch_indices, to_unit
from flax_vae.metrics.objective_means import in_blocks
from flax_vae.models.binding import Params
from flax_vae.nn.convolutions import max_pool
from flax_vae.nn.layers import Conv, dense
from flax_vae.system.console import progress
from flax_vae.training.optimizers import make_optimizer
from flax_vae.training.sharding import DATA_AXIS, EVERYWHERE, data_mesh, shardings

_GRID = 16  # patches along the longer side of an image, at most
_RATE = 2e-2  # of Muon
_AT_ONCE = 20  # images whose gradient is computed at a time: what fits a core's cache
_BATCH = 200
_STEPS_PER_DISPATCH = 20
_LONGEST = 30  # dispatches


class ConvClassifier(nn.Module):
    """Convolutions with ReLU and 2x2 max-pooling on patches of the image, then 64 dense features with SiLU.

    ReLU would leave some of the features at 0 for every image. Patches are so large that at most 16 lie
    along a side: large images take little longer than small ones.
    """

    classes: int
    channels: tuple[int, ...] = (16, 32, 64)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b k"], Float[Array, "b f"]]:
        """Images "b h w c" in [0, 1] of any size -> logits "b k" of the classes and features "b 64"."""
        x = _patches(x - 0.5, -(-max(x.shape[1:3]) // _GRID))
        for channels in self.channels:
            x = max_pool(nn.relu(Conv(channels)(x)))
        features = nn.silu(dense(64)(x.reshape(len(x), -1)))
        return dense(self.classes)(features), features


def _patches(x: Float[Array, "b h w c"], side: int) -> Float[Array, "b ph pw f"]:
    """The pixels of each square patch as channels; the last row and column are filled up with zeros."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
    rows, columns = x.shape[1] // side, x.shape[2] // side
    return x.reshape(b, rows, side, columns, side, c).swapaxes(2, 3).reshape(b, rows, columns, -1)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained classifier, with what is reported with its scores.

    Attributes:
        module, params: the Linen module and its parameters.
        classes: the label that each logit stands for.
        name: in words, with the number of images that it learned.
        seed: of its first parameters and of the order of the images.
    """

    module: ConvClassifier
    params: Params
    classes: Int[np.ndarray, " k"]
    name: str
    seed: int


def train_classifier(images: StoredImages, labels: Int[np.ndarray, " n"], seed: int) -> Classifier:
    """Learn to classify images by their labels, any integers; a function of its arguments.

    Each step takes 200 images (of fewer, as many twenties as there are), which devices share. It takes 600 steps, two
    epochs of 60,000 images, or twenty epochs, whichever is less.
    """
    at_once = min(_AT_ONCE, len(images))
    batch_size = at_once * min(_BATCH // at_once, len(images) // at_once)
    steps = _STEPS_PER_DISPATCH * min(_LONGEST, len(images) // batch_size)
    classes, targets = np.unique(labels, return_inverse=True)
    module = ConvClassifier(len(classes))
    mesh = data_mesh(batch_size // at_once)
    carry = jax.device_put(_start(module, steps, jax.random.key(seed), images[:1]), shardings(mesh)[0])
    epochs = (epoch_indices(len(images), batch_size, seed, epoch) for epoch in count())
    order = np.stack(list(islice(chain.from_iterable(epochs), steps))).reshape(steps, -1, at_once)
    dispatches = [order[i : i + _STEPS_PER_DISPATCH] for i in range(0, steps, _STEPS_PER_DISPATCH)]
    for indices in progress(dispatches, len(dispatches), "training a classifier"):
        carry = jax.block_until_ready(_advance(module, steps, mesh, carry, images[indices], targets[indices]))
    widths = "-".join(map(str, module.channels))
    return Classifier(module, jax.device_get(carry[0]), classes, f"conv {widths} on {len(images):,} images", seed)


def _optimizer(steps: int) -> optax.GradientTransformation:
    return make_optimizer("muon", _RATE, steps, steps // 8, "cosine")


@partial(jax.jit, static_argnums=(0, 1))
def _start(module: ConvClassifier, steps: int, key: Key[Array, ""], images: Images) -> tuple[Any, Any]:
    """Parameters and optimiser before the first step."""
    params = module.init(key, to_unit(images))["params"]
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
    """Parameters and optimiser after s of all the steps, each on m microbatches, which the devices of a mesh share."""

    def mean_loss(params: Params, images: Array, labels: Array) -> Array:
        logits, _ = module.apply({"params": params}, to_unit(images))
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
    """Logits and features of all images, of which only a few are held as floats at a time."""

    def one_image(image: Array) -> tuple[Array, Array]:
        outputs: Any = module.apply({"params": params}, to_unit(image[None]))
        return outputs[0][0], outputs[1][0]

    return jax.lax.map(one_image, images, batch_size=_AT_ONCE)


def accuracy(classifier: Classifier, images: StoredImages, labels: Int[np.ndarray, " n"]) -> float:
    """Share of the images that are classified right; one whose label the classifier never saw cannot be."""
    found = []
    for block, size in in_blocks(images, _AT_ONCE):
        logits, _ = _outputs(classifier.module, classifier.params, block.reshape(-1, *block.shape[2:]))
        found.append(np.argmax(logits, -1)[:size])
    return float((classifier.classes[np.concatenate(found)] == labels).mean())


def features(classifier: Classifier, images: Images) -> Float[np.ndarray, "n f"]:
    """The 64 features of each image from which the classifier predicts its class; uint8 pixels, or floats in [0, 1]."""
    return np.asarray(_outputs(classifier.module, classifier.params, images)[1])


def frechet_distance(a: Float[np.ndarray, "n f"], b: Float[np.ndarray, "m f"]) -> float:
    """The squared Wasserstein distance between normals with the moments of two sets of features (Heusel et al. 2017).

    |μ_a - μ_b|² + tr(A + B - 2 (A B)^(1/2))

    With A = RᵀR and B = SᵀS, from a QR decomposition of the centred features, the eigenvalues of A B are the squares of
    the singular values of R Sᵀ: their sum is the trace of the root, exact also where a covariance is singular.

    Few images have covariances that are off, which adds to the distance: compare distances of equally many images.

    Raises:
        ValueError: fewer than two images have no covariance.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"at least two images each are needed for a covariance: {len(a)}, {len(b)}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    r, s = _root_of_covariance(a), _root_of_covariance(b)
    means = np.square(a.mean(0) - b.mean(0)).sum()
    spreads = np.square(r).sum() + np.square(s).sum() - 2 * np.linalg.svdvals(r @ s.T).sum()
    return float(means + max(spreads, 0.0))


def _root_of_covariance(x: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "r f"]:
    """R with RᵀR the sample covariance."""
    return np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1)).R
