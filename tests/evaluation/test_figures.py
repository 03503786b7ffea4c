"""The registry of metrics and the figures that report them."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flax_vae import UserError, load_run
from flax_vae.evaluation.figures import METRICS, REQUIREMENTS, in_order, measure, refuse_unusable, report
from flax_vae.evaluation.subject import Subject


def test_metrics_have_known_requirements() -> None:
    assert {need for name in METRICS for need in METRICS.needs(name)} <= REQUIREMENTS.keys()


def test_metrics_without_requirements_come_first() -> None:
    needs = [bool(METRICS.needs(name)) for name in in_order()]
    assert needs == sorted(needs)
    assert {"elbo", "importance_weighted", "reconstruction_mse"} <= {
        name for name in METRICS if not METRICS.needs(name)
    }


def test_a_metric_of_the_users_own_is_measured_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that cannot be measured is refused before the evaluation, one that returns no numbers after it."""

    def brightness(subject: Any, scale: float = 1.0) -> Any:
        return {"mean": scale * subject.images.mean(), "largest": subject.images.max()}

    def labels(subject: Any) -> list[str]:
        return ["a"]

    def needy(subject: Any) -> float:
        return 0.0

    needy.needs = ("luck",)
    monkeypatch.setitem(sys.modules, "own", SimpleNamespace(brightness=brightness, labels=labels, needy=needy))
    subject: Any = Subject.__new__(Subject)
    object.__setattr__(subject, "images", np.float32([1, 2]))
    text = "own:brightness(scale=2.0)"
    refuse_unusable([text])
    record = {text: measure(text, subject)}
    assert json.loads(json.dumps(record)) == {text: {"mean": 3.0, "largest": 2.0}}
    assert [(figure.name, figure.value) for figure in report(record)] == [(f"{text} mean", 3), (f"{text} largest", 2)]
    with pytest.raises(UserError, match=r"own:labels returned \['a'\]: return a number"):
        measure("own:labels", subject)
    for metric, message in {
        "elbo": "elbo is always measured",
        "own:needy": "own:needy has the unknown need luck: choose from classes",
        "own:brightness(size=2)": "unexpected keyword argument 'size'; the signature is",
        "own:absent": "has no function or class absent",
    }.items():
        with pytest.raises(UserError, match=message):
            refuse_unusable([metric])


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
