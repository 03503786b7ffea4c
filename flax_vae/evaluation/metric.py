"""The registry of metrics: each is registered once, with its name, its requirements and the figures that report it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from flax_vae.evaluation.subject import Subject
from flax_vae.models.protocol import provides
from flax_vae.runs.records import Record


class Figure(NamedTuple):
    """A line of a report.

    Attributes:
        name: name in the table.
        value: the number; None for a line of words.
        unit: unit or scale of the value.
        note: what else the table says about it.
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


@dataclass(frozen=True)
class Metric:
    """A metric of a trained model.

    Attributes:
        name: its key in evaluation.json.
        measure: computes its value there, from JSON types, or None.
        figures: yields the lines that report it, from the contents of evaluation.json.
        needs: requirements, of `REQUIREMENTS`; the value is None if one is not met.
    """

    name: str
    measure: Callable[[Subject], Any]
    figures: Callable[[Record], Iterator[Figure]]
    needs: tuple[str, ...] = ()


REQUIREMENTS: dict[str, Callable[[Subject], bool]] = {
    "classes": lambda subject: subject.has_classes,
    "factors": lambda subject: subject.test.factors is not None,
    "posterior_means": lambda subject: "posterior_mean" in subject.statistics,
    "single_layer": lambda subject: provides(subject.run.vae, "single_layer"),
}
METRICS: list[Metric] = []


def _no_figures(_: Record) -> Iterator[Figure]:
    return iter(())


def metric(
    name: str, figures: Callable[[Record], Iterator[Figure]] = _no_figures, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Subject], Any]], Callable[[Subject], Any]]:
    """Register the decorated function as the `measure` of a `Metric`."""

    def register(measure: Callable[[Subject], Any]) -> Callable[[Subject], Any]:
        METRICS.append(Metric(name, measure, figures, needs))
        return measure

    return register
