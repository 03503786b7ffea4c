"""A model that a loop of the user's own has trained: its run directory opens like any other.

The kind of fault is a directory that some command cannot read, or that describes another training.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from flax_vae import (
    ELBO,
    Config,
    Plan,
    Run,
    UserError,
    epoch_batches,
    export_run,
    fit,
    init_state,
    load_run,
    make_train_step,
    resume,
    save_run,
)
from flax_vae.cli.main import main
from flax_vae.evaluation.figures import METRICS, in_order
from flax_vae.presets import tutorial_dense
from flax_vae.runs.data import load_data
from flax_vae.runs.models import make_model

pytestmark = pytest.mark.usefixtures("without_pictures")
TX = optax.adam(1e-2)
MODEL = tutorial_dense((28, 28, 1), latent_dim=3)


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(dataset=str(few_images), epochs=1, batch_size=100)


@pytest.fixture(scope="module")
def trained(config: Config) -> tuple[Any, dict[str, Any]]:
    """The parameters and metrics of a short loop, as a user would write it."""
    state, step = init_state(MODEL, TX, jax.random.key(0), (28, 28, 1)), make_train_step(MODEL, ELBO(), TX)
    for batch in epoch_batches(load_data(config).train.x, 100, seed=0, epoch=0):
        state, metrics = step(state, batch)
    return state.best_params, {"step": state.step, "test_loss": metrics["loss"], "train_loss": metrics["loss"]}


@pytest.fixture(scope="module")
def run(trained: tuple[Any, dict[str, Any]], config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return save_run(tmp_path_factory.mktemp("runs") / "own", *trained, config, model=MODEL, optimizer=TX)


def test_the_directory_holds_what_was_trained(run: Run, trained: tuple[Any, dict[str, Any]]) -> None:
    params, metrics = trained
    opened = load_run(run.directory, MODEL)
    jax.tree.map(np.testing.assert_array_equal, opened.params, params)
    assert opened.record == {"epoch": 1, "step": 6, "seconds": 0.0} | {
        name: float(metrics[name]) for name in ("test_loss", "train_loss")
    }
    settings = json.loads((run.directory / "config.json").read_text())
    assert (settings["preset"], settings["latent_dim"], settings["learning_rate"]) == (":VAE", None, None)
    assert opened.latent_dims == (3,)


def test_a_run_of_a_preset_opens_by_itself(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The parameters are averaged and the data have labels, which `fit` stores in other files."""
    (tmp_path / "run").mkdir()
    config = Config(preset="tutorial_dense", dataset=config.dataset, ema_decay=0.9, conditional=True)
    params = init_state(make_model(config, (28, 28, 1)), TX, jax.random.key(0), (28, 28, 1), context_dim=10).params
    run = save_run(tmp_path / "run", params, {"step": 1, "test_loss": 500.0}, config)
    jax.tree.map(np.testing.assert_array_equal, load_run(run.directory).params, params)
    assert main(["sample", str(run.directory), "--label", "3", "--out", str(tmp_path / "samples.png")]) == 0
    assert main(["compare", str(run.directory), "--out", str(tmp_path / "comparison.png")]) == 0
    assert "500.00" in capsys.readouterr().out
    assert (export_run(run, "safetensors", tmp_path / "exported") / "README.md").exists()


@pytest.mark.slow
def test_it_is_evaluated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [name for name in in_order() if "classes" not in METRICS.needs(name)]
    monkeypatch.setattr("flax_vae.evaluation.evaluate.in_order", lambda: quick)
    record = run.evaluate(Plan(num_samples=(4,), num_images=10))
    assert record["step"] == 6
    assert "IW bound, 4 samples" in load_run(run.directory, MODEL).summary()


@pytest.mark.slow
def test_it_cannot_be_resumed_but_started_from(run: Run, config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"by a loop of your own, and has no state to resume: use fit\(init=run\)"):
        resume(run.directory, model=MODEL, optimizer=TX, epochs=3)
    assert load_run(run.directory, MODEL).step == 6
    assert fit(config, tmp_path / "more", model=MODEL, init=run).step == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": {}}, r"`params` belongs to another model: decoder\.\S+ is not stored; the model expects \("),
        (
            {"model": tutorial_dense((28, 28, 1), latent_dim=4)},
            r"stored as \(3, 128\), but the model expects \(4, 128\)",
        ),
        ({"metrics": {"step": 1, "loss": 3.0}}, r"`metrics` \(step, loss\) has no test_loss: add it"),
        ({"metrics": {}}, r"`metrics` \(empty\) has no step: add it"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    trained: tuple[Any, dict[str, Any]], config: Config, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    params, metrics = trained
    given = {"params": params, "metrics": metrics, "config": config, "model": MODEL} | changes
    with pytest.raises(UserError, match=message):
        save_run(tmp_path / "run", **given)
    assert not list(tmp_path.iterdir())
