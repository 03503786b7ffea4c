"""Families of figures, one file each, whose metrics are registered by importing them."""

from collections.abc import Iterator

from flax_vae.evaluation.metric import METRICS, Figure, Metric
from flax_vae.parts import import_siblings
from flax_vae.runs.records import Record

import_siblings(__name__, __path__)


def all_metrics() -> list[Metric]:
    """Return all metrics: those without requirements first, otherwise in the order of the files and within them."""
    return sorted(METRICS, key=lambda metric: bool(metric.needs))


def report(record: Record) -> Iterator[Figure]:
    """Yield the figures of an evaluation.json, which an earlier version may have written."""
    for metric in all_metrics():
        if metric.name in record:
            yield from metric.figures(record)
