"""The information in the latents: parts of the rate, active units, and rates of dimensions."""

import math
from collections.abc import Sequence

import jax

from flax_vae.batches import OnDisk, batch_size_of, take
from flax_vae.evaluation.figures import METRICS, Figure, Figures
from flax_vae.evaluation.subject import Subject
from flax_vae.metrics.latents import active_units as count_active_units
from flax_vae.metrics.latents import elbo_surgery
from flax_vae.runs.records import Record
from flax_vae.sampling import encode
from flax_vae.system.console import spinner

_UNUSED = 0.01  # nats per image: a latent dimension or layer with a lower rate is not used


def _surgery_figures(record: Record) -> Figures:
    if surgery := record["surgery"]:
        information, marginal_kl = surgery["mutual_information"], surgery["marginal_kl"]
        highest = math.log(surgery["images"])  # the largest value that this number of images can show, in nats
        limited = information > highest - 1
        note = f"{surgery['images']:,} images show no more than {highest:.1f}" if limited else ""
        yield Figure("mutual information", information, "nats, of the rate", note)
        note = "the rest" if limited else "KL of q(z) from the prior"
        yield Figure("marginal KL", marginal_kl, "nats, of the rate", note)


@METRICS.register("surgery", figures=_surgery_figures, needs=("single_layer",))
def surgery(subject: Subject) -> dict[str, float | int]:
    """Return the parts of the rate, computed from all images or, if these are too many, from those for the bound.

    All images are used if they are in memory and densities are cheap, since every image is paired with every other.
    """
    run, batch = subject.run, subject.batch
    posterior = encode(run.model, run.params, take(batch, slice(1)))
    cheap = getattr(posterior, "cheap_log_prob", False) and not isinstance(jax.tree.leaves(batch)[0], OnDisk)
    images = batch if cheap else subject.chosen_batch
    with spinner("comparing latents"):
        parts = elbo_surgery(run.model, run.params, images, subject.keys["surgery"])
        return {name: float(value) for name, value in parts.items()} | {"images": batch_size_of(images)}


@METRICS.register("latent_dim", needs=("posterior_means",))
def latent_dim(subject: Subject) -> int:
    """Return the number of latent dimensions of the top layer."""
    return subject.statistics["posterior_mean"].shape[1]


def _unit_figures(record: Record) -> Figures:
    if record["latent_dim"]:
        yield Figure("active units", record["active_units"], f"of {record['latent_dim']} latent dimensions", format="d")


@METRICS.register("active_units", figures=_unit_figures, needs=("posterior_means",))
def active_units(subject: Subject) -> int:
    """Return the number of latent dimensions whose posterior mean depends on the image."""
    return count_active_units(subject.statistics["posterior_mean"])


def _dimension_figures(record: Record) -> Figures:
    if record["dimension_rates"] is not None:
        rates = sorted(record["dimension_rates"], reverse=True)
        listed = "  ".join(f"{rate:.2f}" for rate in rates[:8]) + ("  ..." if len(rates) > 8 else "")
        yield Figure("rate by dimension", None, note=f"{listed}  nats, highest first")


@METRICS.register("dimension_rates", figures=_dimension_figures, needs=("posterior_means",))
def dimension_rates(subject: Subject) -> list[float] | None:
    """Return the mean rate of each latent dimension in nats, or None if dimensions are not independent normals."""
    return subject.mean("dimension_rates")


def collapse_warning(rate: float, dimension_rates: Sequence[float] | None, layer_rates: Sequence[float]) -> str | None:
    """Return a warning if the latents, or some of them, carry no information about the images, else None.

    It goes by the mean rates over the images: a posterior whose mean is the same for all images may still be far from
    the prior. Rates of layers are for models whose dimensions have none.
    """
    if rate < 0.1:
        return f"posterior collapse: the latents carry {rate:.2g} nats, and the decoder ignores them."
    rates, parts = (dimension_rates, "latent dimensions") if dimension_rates else (layer_rates, "layers")
    if unused := sum(rate < _UNUSED for rate in rates):
        return f"{unused} of {len(rates)} {parts} are not used: their posterior is the prior."
    return None
