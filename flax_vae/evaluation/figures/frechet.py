"""The Fréchet distance between samples and test images."""

import numpy as np

from flax_vae.evaluation.figures import Figure, Figures, metric
from flax_vae.evaluation.subject import Subject
from flax_vae.metrics.classifier import accuracy
from flax_vae.metrics.frechet import frechet_distance
from flax_vae.runs.records import Record


def _figures(record: Record) -> Figures:
    if value := record["frechet"]:
        unit = "in features of a small classifier"
        note = f"{value['images']:,} samples from test images; {value['floor']:.2f} as many training images"
        yield Figure("Fréchet distance", value["distance"], unit, note, key="frechet_distance")
        note = f"{value['classifier']} (seed {value['seed']}), accuracy {value['accuracy']:.1%}"
        yield Figure("", None, note=f"classifier: {note}")


@metric("frechet", _figures, needs=("classes",))
def frechet(subject: Subject) -> Record:
    """Return the distance between samples and test images and, for comparison, between training and test images."""
    classifier, test, features = subject.classifier, subject.test, subject.class_features
    return {
        "distance": frechet_distance(features.samples, features.test),
        "floor": frechet_distance(features.train, features.test),
        "images": len(features.test),
        "classifier": classifier.name,
        "accuracy": accuracy(classifier, test.images, np.asarray(test.labels)),
        "seed": classifier.seed,
    }
