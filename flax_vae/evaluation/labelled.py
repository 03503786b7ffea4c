"""What labels and factors tell of a trained model: probes of its latents, and how far its samples are from images."""

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from flax_vae.batches import Batch, batch_size_of, take, unpack
from flax_vae.data import ImageData, as_batch, is_binary
from flax_vae.metrics.disentanglement import dci, mig, sap
from flax_vae.metrics.frechet import accuracy, features, frechet_distance, train_classifier
from flax_vae.metrics.latents import posterior_means
from flax_vae.runs.records import Record
from flax_vae.runs.run import Run
from flax_vae.sampling import sample
from flax_vae.system.console import log, spinner

_DECODED = 2000  # images that are held as floats at a time
_PROBED = 10_000  # training images that classifiers of latents learn from
_COMPARED = 10_000  # samples and images of a Fréchet distance


def some_of(data: ImageData, count: int, seed: int) -> Int[np.ndarray, " n"]:
    """Some of the images: the first may be of one class."""
    return np.random.default_rng(seed).permutation(len(data.images))[:count]


def _labels(train: ImageData, test: ImageData) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]] | None:
    """Those of both, or None without two classes to tell apart."""
    if train.labels is None or test.labels is None or np.ptp(train.labels) == 0:
        return None
    return train.labels, test.labels


def accuracies(run: Run, train: ImageData, test: ImageData, means: Float[np.ndarray, "n d"]) -> dict[str, float] | None:
    """k-NN and linear-probe accuracy of labels from posterior means, or None without two classes.

    By the nearest ten, and by logistic regression: how much of the classes the latents encode, and how linearly.
    """
    if (labels := _labels(train, test)) is None:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    some = some_of(train, _PROBED, 0)
    batch = take(as_batch(train, run.class_names), some)
    known = posterior_means(run.vae, run.params, batch)
    nearest, linear = KNeighborsClassifier(min(10, len(some))), LogisticRegression(max_iter=1000)
    probes = {"nearest_neighbours": nearest, "linear": linear}
    return {
        name: float(make_pipeline(StandardScaler(), probe).fit(known, labels[0][some]).score(means, labels[1]))
        for name, probe in probes.items()
    }


def disentanglement(test: ImageData, means: Float[np.ndarray, "n d"]) -> dict[str, float] | None:
    """MIG, SAP and DCI of the posterior means, or None where the images have no factors."""
    if test.factors is None:
        return None
    of_dci = dci(means, test.factors)._asdict()
    return {"MIG": mig(means, test.factors), "SAP": sap(means, test.factors)} | {
        f"DCI {name}": score for name, score in of_dci.items()
    }


def frechet(run: Run, train: ImageData, test: ImageData, images: Batch, key: Key[Array, ""]) -> Record | None:
    """The distance of samples from test images, and that of as many training images, or None without two classes."""
    if (labels := _labels(train, test)) is None:
        log("Left out: accuracies of labels and the Fréchet distance, which need training images of two classes.")
        return None
    classifier = train_classifier(train.images, labels[0], seed=0)
    count = min(len(train.images), len(test.images), _COMPARED)
    some = some_of(test, count, 0)
    with spinner("sampling"):
        known = features(classifier, train.images[some_of(train, count, 0)])
        unseen = features(classifier, test.images[some])
        made = features(classifier, _samples(run, key, take(images, some), is_binary(test.images)))
        return {
            "distance": frechet_distance(made, unseen),
            "floor": frechet_distance(known, unseen),
            "images": count,
            "classifier": classifier.name,
            "accuracy": accuracy(classifier, test.images, labels[1]),
            "seed": classifier.seed,
        }


def _samples(run: Run, key: Key[Array, ""], like: Batch, binary: bool) -> UInt8[np.ndarray, "n h w c"]:
    """Means of p(x | z) for z from the prior, as pixels; as many as there are images, and in their contexts.

    Where pixels of the data are 0 or 255 they are draws from p(x | z).
    """
    blocks = []
    for i in range(0, batch_size_of(like), _DECODED):
        x, contexts = unpack(take(like, slice(i, i + _DECODED)))
        latent_key, pixel_key = jax.random.split(jax.random.fold_in(key, i))
        drawn = pixel_key if binary else None
        made = np.asarray(sample(run.vae, run.params, latent_key, len(x), 1.0, contexts, drawn))
        blocks.append(np.rint(255 * made.clip(0, 1)).astype(np.uint8))
    return np.concatenate(blocks)
