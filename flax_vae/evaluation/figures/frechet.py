"""The Fréchet distance between samples and test images."""

import jax
import numpy as np
from jaxtyping import Int, UInt8

from flax_vae.batches import take
from flax_vae.data import is_binary
from flax_vae.evaluation.figures import METRICS, Figure, Figures
from flax_vae.evaluation.subject import Subject, random_indices
from flax_vae.metrics.classifier import accuracy, features, train_classifier
from flax_vae.metrics.frechet import frechet_distance, frechet_error
from flax_vae.runs.records import Record
from flax_vae.sampling import sample
from flax_vae.system.console import spinner

_COMPARED = 10_000  # number of samples and of images whose features are compared, at most
_DECODED_AT_ONCE = 2000  # samples that are held as floats at a time


def _figures(record: Record) -> Figures:
    if value := record["frechet"]:
        unit = "in features of a small classifier"
        error = value.get("standard_error_of_draws")  # earlier versions have none
        note = "" if error is None else f"± {error:.2f} by the draws; "
        note += f"{value['images']:,} samples from test images; {value['floor']:.2f} as many training images"
        yield Figure("Fréchet distance", value["distance"], unit, note, key="frechet_distance")
        note = f"{value['classifier']} (seed {value['seed']}), accuracy {value['accuracy']:.1%}"
        yield Figure("", None, note=f"classifier: {note}")


@METRICS.register("frechet", figures=_figures, needs=("images", "classes"))
def frechet(subject: Subject) -> Record:
    """Return the distance between samples and test images and, for comparison, between training and test images."""
    train, test = subject.train, subject.test
    classifier = train_classifier(train.x, np.asarray(train.labels), seed=0)
    count = min(len(train.x), len(test.x), _COMPARED)
    chosen = random_indices(test, count, 0)
    with spinner("sampling"):
        of_train = features(classifier, train.x[random_indices(train, count, 0)])
        of_test = features(classifier, test.x[chosen])
        of_samples = features(classifier, _samples(subject, chosen))
    return {
        "distance": frechet_distance(of_samples, of_test),
        "standard_error_of_draws": frechet_error(of_samples, of_test),
        "floor": frechet_distance(of_train, of_test),
        "images": count,
        "classifier": classifier.name,
        "accuracy": accuracy(classifier, test.x, np.asarray(test.labels)),
        "seed": classifier.seed,
    }


def _samples(subject: Subject, chosen: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w c"]:
    """Return one sample for each of the chosen test images, in its context, as uint8.

    Samples are means of p(x | z) for z from the prior; if all pixels of the data are 0 or 255, draws from p(x | z).
    """
    run, binary = subject.run, is_binary(subject.test.x)
    blocks = []
    for start in range(0, len(chosen), _DECODED_AT_ONCE):
        batch = take(subject.batch, chosen[start : start + _DECODED_AT_ONCE])
        latent_key, pixel_key = jax.random.split(jax.random.fold_in(subject.keys["samples"], start))
        images = sample(
            run.model, run.params, latent_key, len(batch.x), 1.0, batch.context, pixel_key if binary else None
        )
        blocks.append(np.rint(255 * np.asarray(images).clip(0, 1)).astype(np.uint8))
    return np.concatenate(blocks)
