"""Metrics of a trained model, and the figures that report them: one file per family.

A new metric is a function of a `Subject`, registered by `metric` in a file of this folder.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from flax_vae.evaluation.subject import Subject
from flax_vae.models.protocol import provides
from flax_vae.parts import import_siblings
from flax_vae.runs.records import Record


class Figure(NamedTuple):
    """A line of a report.

    Attributes:
        name: name in the table.
        value: the number; None for a line of words.
        unit: unit or scale of the value.
        note: remarks in the table, after the unit.
        format: format specification of the value.
        key: type of the metric in a model card, which lists only figures that have one.
        title: name in the model card, if it differs from `name`.
    """

    name: str
    value: float | None
    unit: str = ""
    note: str = ""
    format: str = ".2f"
    key: str = ""
    title: str = ""


Figures = Iterator[Figure]
Measure = Callable[[Subject], Any]


@dataclass(frozen=True)
class Metric:
    """A metric of a trained model.

    Attributes:
        name: its key in evaluation.json.
        measure: computes its value there: JSON types, or None.
        figures: yields the lines that report it, from the contents of evaluation.json.
        needs: requirements, of `REQUIREMENTS`; the value is None if one is not met.
    """

    name: str
    measure: Measure
    figures: Callable[[Record], Figures]
    needs: tuple[str, ...] = ()


REQUIREMENTS: dict[str, Callable[[Subject], bool]] = {
    "classes": lambda subject: subject.has_classes,
    "factors": lambda subject: subject.test.factors is not None,
    "posterior_means": lambda subject: "posterior_mean" in subject.statistics,
    "single_layer": lambda subject: provides(subject.run.model, "single_layer"),
}
_METRICS: list[Metric] = []


def metric(
    name: str, figures: Callable[[Record], Figures] = lambda _: iter(()), needs: tuple[str, ...] = ()
) -> Callable[[Measure], Measure]:
    """Register the decorated function as the `measure` of a `Metric`."""

    def register(measure: Measure) -> Measure:
        _METRICS.append(Metric(name, measure, figures, needs))
        return measure

    return register


def all_metrics() -> list[Metric]:
    """Return all metrics: those without requirements first, otherwise in the order of the files and within them."""
    return sorted(_METRICS, key=lambda metric: bool(metric.needs))


def report(record: Record) -> Figures:
    """Yield the figures of an evaluation.json, which an earlier version may have written."""
    for metric in all_metrics():
        if metric.name in record:
            yield from metric.figures(record)


import_siblings(__name__, __path__)
