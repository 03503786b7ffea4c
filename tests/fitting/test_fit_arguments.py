"""An optimiser of the user's own, callbacks after each epoch, and trainings that start from another run.

The kind of fault is a run that misdescribes how it was trained, or that cannot be resumed as it was.
"""

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from run_directories import assert_same_run, untimed

from flax_vae import ELBO, Config, Run, UserError, fit, fit_many, load_run, resume, tutorial_dense
from flax_vae.fitting.loop import Interrupted
from flax_vae.training.step import TrainState

pytestmark = pytest.mark.usefixtures("without_pictures")


def schedule_free() -> optax.GradientTransformation:
    """Adam whose parameters are evaluated at an average, and whose state has a structure of its own."""
    return optax.contrib.schedule_free_adamw(1e-2)


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(preset="tutorial_dense", dataset=str(few_images), epochs=2, batch_size=100)


class Recorder:
    """A callback that records its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []
        self.states: list[TrainState] = []

    def __call__(self, epoch: int, metrics: dict[str, float], state: TrainState) -> None:
        self.calls.append((epoch, dict(metrics)))
        self.states.append(jax.device_get(replace(state, key=None)))
        metrics.clear()  # of its own


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def run(config: Config, recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        out = tmp_path_factory.mktemp("runs") / "whole"
        return fit(config, out, optimizer=schedule_free(), callbacks=[recorder])


@pytest.mark.slow
def test_a_callback_is_given_each_epoch(run: Run, recorder: Recorder) -> None:
    assert recorder.calls == [(record["epoch"], record) for record in run.metrics]
    assert [int(state.step) for state in recorder.states] == [6, 12]


def test_the_parameters_are_those_that_were_evaluated(run: Run, recorder: Recorder) -> None:
    """A schedule-free method trains at one point and is evaluated at another."""
    state = recorder.states[run.step // 6 - 1]
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), run.params, jax.device_get(state.best_params))
    distances = jax.tree.map(lambda left, right: np.abs(left - right).max(), run.params, state.params)
    assert max(jax.tree.leaves(distances)) > 1e-3


@pytest.mark.slow
def test_the_optimiser_is_recorded_and_resumes_bit_for_bit(
    run: Run, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No recorded setting describes another optimiser, and resuming with another one damages no checkpoint."""
    written = json.loads((run.directory / "config.json").read_text())
    assert written["optimizer"].startswith(":GradientTransformation")
    assert {written[name] for name in ("learning_rate", "schedule", "warmup_steps", "clip_norm")} == {None}
    assert load_run(run.directory).config == run.config
    path, recorder = tmp_path / "run", Recorder()
    fit(replace(config, epochs=1), path, optimizer=schedule_free())
    with pytest.raises(UserError, match="with an optimizer of your own: pass `optimizer`"):
        resume(path, epochs=2)
    with pytest.raises(UserError, match="belongs to another training: opt_state"):
        resume(path, epochs=2, optimizer=optax.sgd(0.1))
    with pytest.raises(UserError, match=r"`learning_rate` 0\.1 has no effect beside"):
        resume(path, epochs=2, optimizer=schedule_free(), learning_rate=0.1)
    with pytest.raises(UserError, match="`optimizer` cannot change"):
        resume(path, epochs=2, optimizer="adam")
    resumed = resume(path, epochs=2, optimizer=schedule_free(), callbacks=[recorder])
    assert_same_run(resumed, run)
    assert [epoch for epoch, _ in recorder.calls] == [2]
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(partial(optax.noisy_sgd, 1e-2, key=jax.random.key(0)), id="a key"),
        pytest.param(partial(optax.contrib.galore, 1e-3, rank=2), id="empty arrays"),
    ],
)
def test_an_optimiser_with_an_unusual_state_resumes_bit_for_bit(
    make: Callable[[], optax.GradientTransformation], config: Config, tmp_path: Path
) -> None:
    whole = fit(config, tmp_path / "whole", optimizer=make())
    fit(replace(config, epochs=1), tmp_path / "run", optimizer=make())
    assert_same_run(resume(tmp_path / "run", epochs=2, optimizer=make()), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{"learning_rate": 0.1}], "`learning_rate` 0.1 has no effect beside an optimiser of your own"),
        ([{"schedule": "linear"}], r"`schedule` linear.* has no effect"),
        ([{"clip_norm": 1.0}], r"`clip_norm` 1\.0 has no effect"),
        ([{"optimizer": "muon"}], "`optimizer` muon has no effect"),
        ([{"learning_rate": 0.1}, {"learning_rate": 0.2}], r"`learning_rate` 0\.1 has no effect"),
    ],
)
def test_settings_without_effect_are_refused(
    config: Config, tmp_path: Path, changes: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fit_many([replace(config, **change) for change in changes], tmp_path / "runs", optimizer=optax.sgd(0.1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "tutorial_conv"}, r"`model` is the text 'tutorial_conv': .* Config\(preset='tutorial_conv'\)"),
        ({"optimizer": "adam"}, r"`optimizer` is the text 'adam': .* Config\(optimizer='adam'\)"),
        ({"optimizer": optax.adam}, r"`optimizer` adam is not an Optax transformation, such as optax.adam\(1e-3\)"),
        ({"objective": ELBO}, r"`objective` is the class ELBO: make it, as ELBO\(...\)"),
        (
            {"objective": lambda model, x, key: 0},
            r"is called as <lambda>\(model, x, key, step\), but too many",
        ),
        ({"callbacks": print}, "`callbacks` is a list of functions"),
        ({"callbacks": [lambda epoch: 0]}, r"is called as <lambda>\(epoch, metrics, state\), but too many"),
        ({"optimizer": optax.lookahead(optax.adam(0.1), 3, 0.5)}, "does not update .*AttributeError: 'dict' object"),
        ({"init": "runs/latest"}, r"`init` is a str: pass a run, such as load_run\('runs/latest'\)"),
        ({"config": "tutorial_dense"}, "The configuration is a str, not a Config"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_arguments_of_another_kind_are_refused(
    config: Config, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        fit(**{"config": config, "out": tmp_path / "run"} | arguments)
    assert not list(tmp_path.iterdir())


def test_settings_that_a_model_replaces_are_refused(config: Config, tmp_path: Path) -> None:
    """Settings that describe another model than the one that is passed."""
    with pytest.raises(UserError, match="`likelihood` normal has no effect beside a model of your own"):
        fit(replace(config, likelihood="normal"), tmp_path / "run", model=tutorial_dense((28, 28, 1)))


@pytest.mark.slow
def test_an_ensemble_of_own_parts_alone(config: Config, tmp_path: Path) -> None:
    """Members of an ensemble with an optimiser of the user's own can differ in the seed only."""
    configs = [replace(config, epochs=1, seed=seed) for seed in (0, 1)]
    first, second = fit_many(configs, tmp_path / "runs", objective=ELBO(), optimizer=optax.adam(1e-2))
    alone = fit(configs[0], tmp_path / "alone", objective=ELBO(), optimizer=optax.adam(1e-2))
    assert untimed(first.metrics) == untimed(alone.metrics) != untimed(second.metrics)


@pytest.mark.slow
def test_an_error_of_a_callback_leaves_a_run_that_can_be_resumed(run: Run, config: Config, tmp_path: Path) -> None:
    def fails(epoch: int, metrics: Any, state: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(config, tmp_path / "run", optimizer=schedule_free(), callbacks=[fails])
    assert_same_run(resume(tmp_path / "run", optimizer=schedule_free()), run)


@pytest.mark.slow
def test_a_training_starts_from_the_parameters_of_another_run(run: Run, config: Config, tmp_path: Path) -> None:
    """The parameters of the first run do not change, and the provenance of the second one names it."""
    before = jax.device_get(run.params)
    config = replace(config, epochs=1, learning_rate=1e-12)
    tuned = fit(config, tmp_path / "tuned", init=run)
    jax.tree.map(np.testing.assert_array_equal, run.params, before)
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, atol=1e-6), tuned.params, before)
    provenance = json.loads((tmp_path / "tuned" / "provenance.json").read_text())
    assert provenance["init"] == {"run": str(run.directory), "step": run.step}
    assert json.loads((run.directory / "provenance.json").read_text())["init"] is None


def test_parameters_that_do_not_fit_are_refused_before_anything_is_written(
    run: Run, config: Config, tmp_path: Path
) -> None:
    for changes, message in [
        ({"latent_dim": 3}, r"stored as \(2, 128\), but the model expects \(3, 128\)"),
        ({"preset": "tutorial_dense(features=(128, 64))"}, "but the model expects"),
        ({"preset": "tutorial_dense(features=())"}, "but the model expects"),
    ]:
        with pytest.raises(
            UserError, match=rf"`init` {run.name} belongs to another model: \S+ is .*{message}"
        ) as error:
            fit(replace(config, **changes), tmp_path / "run", init=run)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_start_that_is_lost_is_not_replaced_by_a_random_one(
    run: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training may be interrupted before its first checkpoint."""
    monkeypatch.setattr("flax_vae.fitting.loop.HostInput", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        fit(config, tmp_path / "run", init=run)
    monkeypatch.undo()
    with pytest.raises(
        UserError, match=r"has no checkpoint yet, and starts from .*whole: start it again by fit\(init=run\)"
    ):
        resume(tmp_path / "run")
