"""Runs of models and objectives with state of their own: they are saved, resumed, written as files and opened.

The kind of fault is state that a checkpoint, a file or a member of an ensemble lacks.
"""

import json
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM, raise_signal

import jax
import numpy as np
import pytest
from run_directories import assert_same_run
from stateful_models import Adversary, stateful_vae

from flax_vae import Config, Run, fit, fit_many, load_run, resume, sample, write_run
from flax_vae.fitting.loop import Interrupted
from flax_vae.fitting.report import Report

pytestmark = pytest.mark.usefixtures("without_pictures")
OWN = {"model": stateful_vae((28, 28, 1)), "objective": Adversary()}


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(dataset=str(few_images), epochs=2, batch_size=100, min_steps=0, validation=0.25, ema_decay=0.5)


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(config, tmp_path_factory.mktemp("runs") / "whole", **OWN)


def test_a_run_resumes_with_its_state(
    run: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run equals an uninterrupted one to the bit: collections and the objective's parameters are saved."""
    advance = Report.advance

    def advance_and_interrupt(self: Report, step: int, *arguments: object) -> None:
        advance(self, step, *arguments)
        if step == 7:
            raise_signal(SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Report, "advance", advance_and_interrupt)
        patch.setattr("flax_vae.fitting.timing._SECONDS_PER_DISPATCH", 0.0)  # every step is a dispatch
        with pytest.raises(Interrupted):
            fit(config, tmp_path / "broken", **OWN)
    resumed = resume(tmp_path / "broken", **OWN)
    assert_same_run(resumed, run)
    for a, b in zip(jax.tree.leaves(resumed.objective_params), jax.tree.leaves(run.objective_params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_is_opened_with_its_statistics(run: Run, tmp_path: Path) -> None:
    """A directory and a file give the same samples. Only the directory holds the objective's parameters."""
    assert set(run.params) == {"params", "batch_stats", "codebook"}
    assert set(run.objective_params) == {"params", "averages"}
    (path, key), model = (write_run(run, tmp_path / "shared"), jax.random.key(1)), OWN["model"]
    for opened in (load_run(run.directory, model=model), load_run(path, model=model)):
        np.testing.assert_array_equal(sample(model, opened.params, key, 4), sample(model, run.params, key, 4))
    assert json.loads((run.directory / "test.json").read_text())["objective_loss"] > 0


@pytest.mark.slow
def test_members_of_an_ensemble_have_their_own_state(run: Run, config: Config, tmp_path: Path) -> None:
    """A member equals the run with its seed alone, to the bit; each has an objective of its own."""
    runs = fit_many([replace(config, seed=seed) for seed in (1, 0, 2)], tmp_path / "three", **OWN)
    assert_same_run(runs[1], run)
    averages = {float(member.objective_params["averages"]["logit"]) for member in runs}
    assert len(averages) == 3
