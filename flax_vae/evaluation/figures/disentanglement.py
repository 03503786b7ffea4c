"""Scores of disentanglement, for images whose generating factors are known."""

import numpy as np

from flax_vae.evaluation.figures import METRICS, Figure, Figures
from flax_vae.evaluation.subject import Subject
from flax_vae.metrics.disentanglement import dci, mig, sap
from flax_vae.runs.records import Record
from flax_vae.system.console import spinner


def _figures(record: Record) -> Figures:
    for name, score in (record["disentanglement"] or {}).items():
        yield Figure(name, score, "from 0 to 1", "posterior means and factors")


@METRICS.register("disentanglement", figures=_figures, needs=("factors", "posterior_means"))
def disentanglement(subject: Subject) -> dict[str, float]:
    """Return MIG, SAP and DCI of the posterior means of the test images."""
    latents, factors = subject.statistics["posterior_mean"], np.asarray(subject.test.factors)
    with spinner("scoring disentanglement"):
        scores = {"MIG": mig(latents, factors), "SAP": sap(latents, factors)}
        return scores | {f"DCI {name}": score for name, score in dci(latents, factors)._asdict().items()}
