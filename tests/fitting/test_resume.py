"""Runs resumed: as if they had never stopped, or with settings that may change."""

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from interruptions import interrupt_at
from run_directories import assert_same_run, untimed

from flax_vae import Config, Run, UserError, fit, resume
from flax_vae.fitting.ensemble import Ensemble
from flax_vae.fitting.loop import Interrupted
from flax_vae.metrics.objective_means import Spans
from flax_vae.runs.checkpoints import restore
from flax_vae.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(
        preset="tutorial_dense", dataset=str(few_images), epochs=3, batch_size=50, learning_rate=3e-3, ema_decay=0.5
    )


@pytest.mark.parametrize(
    ("last", "signum"),
    [
        pytest.param(12, signal.SIGINT, marks=pytest.mark.slow),
        (17, signal.SIGTERM),
        pytest.param(36, signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=["after an epoch", "within an epoch", "after the last epoch"],
)
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(
    run: Run, config: Config, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int, signum: int
) -> None:
    """Also if its data are on a relative path, and it is resumed from another directory."""
    shutil.copy(few_images, tmp_path / "mine.npz")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path)
        interrupt_at(last, patch, signum)
        with pytest.raises(Interrupted, match=r"--resume .*broken") as stopped:
            fit(replace(config, dataset="mine.npz"), "broken")
    assert stopped.value.signum == signum
    assert (tmp_path / "broken" / "checkpoints" / str(last)).is_dir()
    assert_same_run(resume(tmp_path / "broken"), run)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 3], ids=["of the first epoch", "of the last epoch"])
def test_an_interrupted_evaluation_is_repeated_when_the_run_is_resumed(
    run: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """The run is interrupted twice."""
    broken, evaluate = tmp_path / "broken", Ensemble.evaluate

    def evaluate_and_interrupt(self: Ensemble, images: Any, spans: Spans) -> Any:
        number = next(calls)  # the first call only compiles

        def interrupted_spans(start: int, end: int) -> Iterator[tuple[int, int]]:
            for i, span in enumerate(spans(start, end)):
                assert (number, i) != (stopped_at, 1), "the evaluation continues after a signal"
                yield span
                if number == stopped_at:
                    signal.raise_signal(signal.SIGTERM)

        return evaluate(self, images, interrupted_spans)

    with monkeypatch.context() as patch:
        patch.setattr(Ensemble, "evaluate", evaluate_and_interrupt)
        calls, stopped_at = count(), epoch
        with pytest.raises(Interrupted):
            fit(config, broken)
        calls, stopped_at = count(), 1
        with pytest.raises(Interrupted):
            resume(broken)
    assert [record["epoch"] for record in RunDirectory(broken).metrics()] == [*range(1, epoch)]
    assert (broken / "checkpoints" / str(12 * epoch)).is_dir()
    assert_same_run(resume(broken), run)


@pytest.mark.slow
def test_a_run_resumed_for_more_epochs_equals_one_that_was_longer_from_the_start(
    config: Config, tmp_path: Path
) -> None:
    """With a rate that does not depend on the number of epochs. The change is recorded, and holds from then on."""
    steady = replace(config, schedule="constant", warmup_steps=0)
    whole = fit(replace(steady, epochs=5), tmp_path / "whole")
    run = fit(replace(steady, epochs=2), tmp_path / "run")
    longer = resume(run.directory, epochs=5, keep=4)
    assert_same_run(longer, whole)
    assert_same_run(resume(run.directory), whole)
    assert (longer.config.epochs, longer.config.keep) == (5, 4)
    (change,) = json.loads((run.directory / "provenance.json").read_text())["changes"]
    assert change["settings"] == {"epochs": [2, 5], "keep": [2, 4]}
    assert change["epochs_before"] == 2


@pytest.mark.slow
def test_a_new_rate_holds_from_the_step_reached(run: Run, copy: Path) -> None:
    """A rate of almost 0 leaves the parameters as they were."""
    params = restore(copy / "checkpoints", 36, {"params": run.params})["params"]
    resumed = resume(copy, epochs=4, learning_rate=1e-20)
    assert [record["epoch"] for record in resumed.metrics] == [1, 2, 3, 4]
    assert untimed(resumed.metrics[:3]) == untimed(run.metrics)
    last = restore(copy / "checkpoints", 48, {"params": run.params})["params"]
    jax.tree.map(np.testing.assert_array_equal, last, params)


def test_images_may_move(copy: Path, few_images: Path, tmp_path: Path) -> None:
    moved = shutil.copy(few_images, tmp_path / "moved.npz")
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {"dataset": "/absent/few.npz"}))
    with pytest.raises(UserError, match="absent"):
        resume(copy)
    assert resume(copy, dataset=str(moved)).config.dataset == str(moved)
    resume(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 10}, "`batch_size` cannot change when a run is resumed, only dataset, .*, epochs, "),
        ({"latent_dim": 3}, "`latent_dim` cannot change"),
        ({"epochs": 2}, "`epochs` 2: .* has been trained for 3 epochs already"),
        ({"epochs": 0}, "`epochs` must be at least 1"),
        ({"schedule": "cosin"}, "`schedule` cosin does not exist"),
    ],
)
def test_settings_that_cannot_change_are_refused(changes: dict[str, Any], message: str, copy: Path) -> None:
    before = (copy / "config.json").read_bytes()
    with pytest.raises(UserError, match=message):
        resume(copy, **changes)
    assert (copy / "config.json").read_bytes() == before


@pytest.mark.slow
def test_a_finished_run_resumes_to_itself(run: Run, copy: Path) -> None:
    assert_same_run(resume(copy), run)


def test_a_run_is_not_resumed_on_other_data(copy: Path, few_images: Path, tmp_path: Path) -> None:
    with np.load(few_images) as arrays:
        np.savez(tmp_path / "other.npz", **{name: array[::-1] for name, array in arrays.items()})
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | {"dataset": str(tmp_path / "other.npz")}))
    with pytest.raises(UserError, match="not the data"):
        resume(copy)
