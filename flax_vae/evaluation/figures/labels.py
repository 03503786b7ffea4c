"""Class labels predicted from posterior means."""

import numpy as np

from flax_vae.batches import take
from flax_vae.data import as_batch
from flax_vae.evaluation.figures import METRICS, Figure, Figures
from flax_vae.evaluation.subject import Subject, random_indices
from flax_vae.metrics.latents import posterior_means
from flax_vae.runs.records import Record
from flax_vae.system.console import spinner

_TRAINING_IMAGES = 10_000  # training images for the classifiers


def _figures(record: Record) -> Figures:
    for name, accuracy in (record["accuracy"] or {}).items():
        yield Figure(f"{name.replace('_', ' ')} accuracy", accuracy, "of labels, from posterior means", format=".1%")


@METRICS.register("accuracy", figures=_figures, needs=("classes", "posterior_means"))
def accuracy(subject: Subject) -> dict[str, float]:
    """Return the accuracies of two classifiers of the test images' posterior means.

    k-NN with ten neighbours measures how much class information the latents hold; logistic regression, how linearly
    decodable it is.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    run, train_labels, test_labels = subject.run, np.asarray(subject.train.labels), np.asarray(subject.test.labels)
    with spinner("classifying latents"):
        chosen = random_indices(subject.train, _TRAINING_IMAGES, 0)
        batch = take(as_batch(subject.train, run.class_names), chosen)
        latents, labels = posterior_means(run.model, run.params, batch), train_labels[chosen]
        nearest, linear = KNeighborsClassifier(min(10, len(chosen))), LogisticRegression(max_iter=1000)
        accuracies: dict[str, float] = {}
        for name, classifier in (("nearest_neighbours", nearest), ("linear", linear)):
            model = make_pipeline(StandardScaler(), classifier).fit(latents, labels)
            accuracies[name] = float(model.score(subject.statistics["posterior_mean"], test_labels))
    return accuracies
