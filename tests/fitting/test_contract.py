"""The contract of models of the user's own: whatever its data and its state are, a model does what the presets do.

The kind of fault is a part of the package that knows images only, or that forgets state besides the parameters.
"""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from contract_cases import CASES, Case
from run_directories import assert_same_run

from flax_vae import Config, Plan, Run, fit, fit_many, load_run, resume, write_run
from flax_vae.batches import batch_size_of, blank

pytestmark = [pytest.mark.usefixtures("without_pictures"), pytest.mark.quick(1)]

# Trains on two devices, and then on one, until it is stopped within the second of three epochs, resumes, and kills
# itself after that epoch.
PROGRAM = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch
import pytest
from flax_vae import fit, resume, use_machine
from flax_vae.fitting.loop import Interrupted
use_machine(2)
from contract_cases import CASES
from interruptions import interrupt_at
case, folder = CASES[sys.argv[1]], Path(sys.argv[2])
config = case.config(folder)
kill = lambda epoch, *_: epoch == 2 and os.kill(os.getpid(), signal.SIGKILL)
with patch("flax_vae.fitting.fit.draw_pictures"):
    fit(replace(config, devices=2), folder / "two", **case.own)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        interrupt_at(11, patch)
        fit(config, folder / "killed", **case.own)
    resume(folder / "killed", **case.own, callbacks=[kill])
"""


class Trained(NamedTuple):
    case: Case
    config: Config
    run: Run


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train without a disturbance, on one device."""
    case, folder = request.param, tmp_path_factory.mktemp("contract")
    config = case.config(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        return Trained(case, config, fit(config, folder / "whole", **case.own))


@pytest.fixture(scope="module")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of two trainings of another process: one on two devices, and one that was killed."""
    folder = tmp_path_factory.mktemp("program")
    (name,) = (name for name, case in CASES.items() if case is trained.case)
    command = [sys.executable, "-c", PROGRAM, name, str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return folder


def test_it_is_trained(trained: Trained) -> None:
    """The loss falls, on examples that are held out as well, and no step is skipped."""
    first, *_, last = trained.run.metrics
    held_out = "validation" if trained.config.validation else "test"
    assert last["train_loss"] < first["train_loss"]
    assert last[f"{held_out}_loss"] < first[f"{held_out}_loss"]
    assert [record["train_skipped"] for record in trained.run.metrics] == [0, 0, 0]


@pytest.mark.slow
def test_it_is_resumed_after_a_stop_within_an_epoch_and_a_sigkill(trained: Trained, folder: Path) -> None:
    """The run that was resumed twice equals the undisturbed one bit for bit."""
    assert len(load_run(folder / "killed", model=trained.case.model).metrics) < 3
    assert_same_run(resume(folder / "killed", **trained.case.own), trained.run)


@pytest.mark.slow
def test_it_is_trained_on_two_devices(trained: Trained, folder: Path) -> None:
    """As on one device, except for rounding."""
    two = load_run(folder / "two", model=trained.case.model)
    for record, expected in zip(two.metrics, trained.run.metrics, strict=True):
        for name in (name for name in expected if name.endswith("loss")):
            np.testing.assert_allclose(record[name], expected[name], rtol=1e-4, err_msg=name)


def test_it_is_sampled(trained: Trained, tmp_path: Path) -> None:
    """The directory and a file of the run give its samples, bit for bit, which have the structure of x."""
    case, run = trained.case, trained.run
    samples = run.sample(4)
    assert jax.tree.map(np.shape, samples) == jax.tree.map(np.shape, blank(run.shape, (4,)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((samples, run.reconstruct())))
    for path in (run.directory, write_run(run, tmp_path / "model")):
        again = load_run(path, model=case.model).sample(4)
        jax.tree.map(np.testing.assert_array_equal, again, samples)


def test_it_is_evaluated(trained: Trained) -> None:
    """The importance-weighted bound is tighter than the ELBO, and equals the evidence if that is known."""
    case, run = trained.case, trained.run
    record = run.evaluate(Plan(num_samples=(2, 1000), num_images=batch_size_of(run.examples)))
    few, many = (row["log_likelihood"] for row in record["importance_weighted"])
    assert record["elbo"]["elbo"] < few < many
    if case.log_evidence is not None:
        assert many == pytest.approx(case.log_evidence(run.params, run.examples).mean(), abs=0.05)


@pytest.mark.slow
def test_members_of_an_ensemble_are_runs_alone(trained: Trained, tmp_path: Path) -> None:
    """The first and the last of three are compared, bit for bit; each has an objective and collections of its own."""
    case, config, run = trained
    configs = [replace(config, seed=seed) for seed in (0, 1, 2)]
    first, _, last = fit_many(configs, tmp_path / "three", **case.own)
    assert_same_run(first, run)
    assert_same_run(last, fit(configs[-1], tmp_path / "alone", **case.own))
