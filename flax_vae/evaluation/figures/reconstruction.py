"""The reconstruction error."""

from collections.abc import Iterator

from flax_vae.evaluation.metric import Figure, metric
from flax_vae.evaluation.subject import Subject
from flax_vae.runs.records import Record


def _figures(record: Record) -> Iterator[Figure]:
    title, error = "Reconstruction error", record["reconstruction_mse"]
    yield Figure("reconstruction error", error, "squared, per pixel", format=".4f", key="mse", title=title)


@metric("reconstruction_mse", _figures)
def reconstruction_mse(subject: Subject) -> float:
    """Return the mean squared error per pixel of images decoded from one draw of their posterior."""
    return subject.mean("squared_error")
