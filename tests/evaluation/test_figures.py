"""The registry of metrics and the figures that report them."""

import json

import pytest

from flax_vae import load_run
from flax_vae.evaluation.figures import REQUIREMENTS, all_metrics, report


def test_metrics_have_unique_names_and_known_requirements() -> None:
    names = [metric.name for metric in all_metrics()]
    assert len(set(names)) == len(names)
    assert {need for metric in all_metrics() for need in metric.needs} <= REQUIREMENTS.keys()


def test_metrics_without_requirements_come_first() -> None:
    needs = [bool(metric.needs) for metric in all_metrics()]
    assert needs == sorted(needs)
    assert {"elbo", "importance_weighted", "reconstruction_mse"} <= {
        metric.name for metric in all_metrics() if not metric.needs
    }


@pytest.mark.parametrize("name", ["mlp", "mlp_vamp", "tutorial_conv"])
def test_evaluations_of_every_version_are_reported(name: str) -> None:
    """The oldest of these files lacks annealed importance sampling."""
    record = load_run(f"pretrained:{name}").evaluation
    figures = {figure.name: figure for figure in report(record)}
    assert figures["ELBO"].value == record["elbo"]["elbo"]
    assert figures["rate"].value == record["elbo"]["rate"]
    assert figures["Fréchet distance"].value == record["frechet"]["distance"]
    assert ("bits per dimension" in figures) == (record["not_a_likelihood"] is None)
    assert [figure.key for figure in report(record) if figure.key][:2] == ["elbo", "log_likelihood"]
    for figure in report(record):
        assert figure.value is None or format(figure.value, figure.format)


def test_a_metric_without_a_value_has_no_figures() -> None:
    record = json.loads(json.dumps(load_run("pretrained:mlp").evaluation))
    record |= dict.fromkeys(("frechet", "accuracy", "disentanglement", "surgery", "latent_dim", "active_units"))
    names = [figure.name for figure in report(record | {"annealed": None, "dimension_rates": None})]
    assert names[:3] == ["ELBO", "rate", "distortion"]
    assert not {"Fréchet distance", "mutual information", "active units", "rate by dimension"} & set(names)
