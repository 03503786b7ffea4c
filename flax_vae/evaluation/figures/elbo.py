"""The evidence lower bound and its terms."""

from collections.abc import Iterator

from flax_vae.evaluation.metric import Figure, metric
from flax_vae.evaluation.subject import Subject
from flax_vae.runs.records import Record


def _elbo_figures(record: Record) -> Iterator[Figure]:
    yield Figure("ELBO", record["elbo"]["elbo"], "nats per image", key="elbo")
    for name in ("rate", "distortion"):
        yield Figure(name, record["elbo"][name], "nats per image")


@metric("elbo", _elbo_figures)
def elbo(subject: Subject) -> dict[str, float]:
    """Return the means of the ELBO, the rate and the distortion over the test set, in nats per image."""
    return {name: subject.mean(name) for name in ("elbo", "rate", "distortion")}


def _layer_figures(record: Record) -> Iterator[Figure]:
    if len(rates := record["layer_rates"]) > 1:
        yield Figure("rate by layer", None, note="  ".join(f"{rate:.2f}" for rate in rates) + "  nats, top first")


@metric("layer_rates", _layer_figures)
def layer_rates(subject: Subject) -> list[float]:
    """Return the mean rate of each stochastic layer, top first, in nats."""
    return subject.mean("layer_rates")
