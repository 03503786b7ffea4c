"""Metrics of a trained model, and the figures that report them: one file per family.

A new metric is a function of a `Subject`, with the requirements that it `needs`, registered in a file of this folder.
Its value, of JSON types or None, is stored under its name in evaluation.json; `figures` yields the lines that report
it, from the contents of that file.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from flax_vae.calls import parse
from flax_vae.data import example_noun
from flax_vae.evaluation.subject import Subject
from flax_vae.models.protocol import provides
from flax_vae.parts import Parts, import_siblings
from flax_vae.runs.records import Record
from flax_vae.system.errors import UserError


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
METRICS: Parts = Parts("metric", supplied=("subject",))
REQUIREMENTS: dict[str, Callable[[Subject], bool]] = {
    "classes": lambda subject: subject.has_classes,
    "factors": lambda subject: subject.test.factors is not None,
    "images": lambda subject: subject.run.kind == "images",
    "posterior_means": lambda subject: "posterior_mean" in subject.statistics,
    "single_layer": lambda subject: provides(subject.run.model, "single_layer"),
}


def in_order() -> list[str]:
    """Return the registered metrics: those without needs first, otherwise in the order of the files and within them."""
    return sorted(METRICS.facts, key=lambda name: bool(METRICS.needs(name)))


def refuse_unusable(metrics: Iterable[str]) -> None:
    """Import metrics of the user's own, and raise UserError for one that cannot be measured."""
    for metric in metrics:
        METRICS.load(metric)
        if metric in METRICS:
            raise UserError(f"`metrics` {metric} is always measured: leave it out, and pass only metrics of your own.")
        if unknown := set(METRICS.needs(parse(metric))) - REQUIREMENTS.keys():
            raise UserError(
                f"`metrics` {metric} has the unknown need {unknown.pop()}: choose from {', '.join(REQUIREMENTS)}."
            )


def measure(metric: str, subject: Subject) -> Any:
    """Return the value of a metric; None if one of its needs is not met.

    Raises:
        UserError: a metric of the user's own returned neither a number nor a dictionary of numbers.
    """
    call = parse(metric)
    if not all(REQUIREMENTS[need](subject) for need in METRICS.needs(call)):
        return None
    value = METRICS.make(call, subject=subject)
    if value is None or not call.is_imported:
        return value
    try:
        return {str(name): float(each) for name, each in value.items()} if isinstance(value, dict) else float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"`metrics` {metric} returned {value!r:.100}: return a number or a dictionary of numbers."
        ) from None


def report(record: Record, kind: str = "images") -> Figures:
    """Yield the figures of an evaluation.json, which an earlier version may have written.

    Args:
        record: the contents of the file.
        kind: the kind of the examples. Figures are written in terms of images, and count examples of another kind.
    """
    for name in in_order():
        if name in record and (figures := METRICS.facts[name].get("figures")):
            for figure in figures(record):
                unit, note = (text.replace("image", example_noun(kind)) for text in (figure.unit, figure.note))
                yield figure._replace(unit=unit, note=note)
    for name in filter(lambda name: ":" in name, record):  # metrics of the user's own
        value = record[name]
        for part, number in value.items() if isinstance(value, dict) else [("", value)]:
            yield Figure(f"{name} {part}".strip(), number, format=".4g")


import_siblings(__name__, __path__)
