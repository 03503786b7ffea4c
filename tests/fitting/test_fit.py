"""Runs: written, read back and refused."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from run_directories import TIMES, assert_same_run, untimed

from flax_vae import ELBO, Config, Run, UserError, Warmup, fit, load_run, resume, sample
from flax_vae.fitting.build import build
from flax_vae.runs.directory import RunDirectory

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(
        preset="tutorial_dense", dataset=str(few_images), epochs=3, batch_size=50, learning_rate=3e-3, ema_decay=0.5
    )


def test_a_run_directory_holds_everything(run: Run, config: Config) -> None:
    assert [record["epoch"] for record in run.metrics] == [1, 2, 3]
    assert [record["step"] for record in run.metrics] == [12, 24, 36]
    terms = ("loss", "elbo", "rate", "distortion")
    expected = {
        "epoch",
        "step",
        *TIMES,
        "train_gradient_norm",
        "train_skipped",
        *(f"{s}_{t}" for s in ("train", "test") for t in terms),
    }
    assert set(run.metrics[-1]) == expected
    assert run.metrics[-1]["test_loss"] < run.metrics[0]["test_loss"]
    last = run.metrics[-1]
    np.testing.assert_allclose(last["test_loss"], last["test_rate"] + last["test_distortion"], rtol=1e-5)
    assert run.config == config
    assert json.loads((run.directory / "config.json").read_text())["learning_rate"] == 3e-3
    provenance = json.loads((run.directory / "provenance.json").read_text())
    assert provenance["versions"]["jax"] == jax.__version__
    assert len(provenance["data"]["train"]) == 64
    assert provenance["device"]["platform"] == jax.default_backend()
    assert list((run.directory / "tensorboard").glob("events*"))
    for picture in ("reconstructions", "samples", "latent_grid", "latent_map", "curves"):
        with Image.open(run.directory / "pictures" / f"{picture}.png") as image:
            assert min(image.size) > 100
    assert (run.directory.parent / "latest").resolve() == run.directory.resolve()


def test_a_loaded_run_samples_what_the_trained_one_did(run: Run, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    loaded = load_run(".")
    key = jax.random.key(1)
    np.testing.assert_array_equal(sample(loaded.model, loaded.params, key, 4), sample(run.model, run.params, key, 4))
    assert loaded.examples.shape == (64, 28, 28, 1)


@pytest.mark.slow
def test_the_best_parameters_are_loaded(config: Config, tmp_path: Path) -> None:
    """If the loss rises after the first epoch, its parameters are loaded; its checkpoint stays besides the last two."""

    def worsens(model, x, key, step):
        distortion = -model.infer(x, key).likelihood.log_prob(x)[0]
        climbs = 2 * jax.lax.stop_gradient(distortion) - distortion  # the same value, the opposite gradient
        return jax.numpy.where(step < 12, distortion, climbs), {}

    config = replace(config, warmup_steps=0, schedule="constant", ema_decay=0.0)
    run = fit(config, tmp_path / "run", objective=worsens)
    assert run.metrics[0]["test_loss"] < run.metrics[2]["test_loss"]
    assert run.step == 12
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(int(path.name) for path in checkpoints.iterdir()) == [12, 24, 36]
    for step in (24, 36):
        shutil.rmtree(checkpoints / str(step))
    jax.tree.map(np.testing.assert_array_equal, run.params, load_run(tmp_path / "run").params)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_types")
def test_every_test_loss_has_the_final_weight_of_a_warmup(config: Config, tmp_path: Path) -> None:
    """With the weights of the warm-up, the first test losses would be the lowest, and their checkpoints the best."""
    run = fit(replace(config, kl_warmup_epochs=2, kl_cycles=1, beta=2.0), tmp_path / "run")
    for record in run.metrics:
        np.testing.assert_allclose(record["test_loss"], record["test_distortion"] + 2 * record["test_rate"], rtol=1e-5)
    first = run.metrics[0]
    assert first["train_loss"] < first["train_distortion"] + 1.5 * first["train_rate"]
    assert run.step == min(run.metrics, key=lambda record: record["test_loss"])["step"]
    assert load_run(run.directory).config == run.config  # the 2 epochs of warm-up were an int


@pytest.mark.slow
def test_the_link_to_the_latest_run_never_stops_a_run(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many runs may start in one folder at once, in the current folder, or as `latest` itself."""
    names = [tmp_path / f"run{i}" for i in range(40)]
    for name in names:
        name.mkdir()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: RunDirectory(name).point_latest(), names))
    assert (tmp_path / "latest").resolve() in names
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("run3")
    monkeypatch.chdir(tmp_path / "run5")
    short = replace(config, epochs=1)
    assert fit(short, tmp_path / "latest").metrics[-1]["step"] == 12
    assert (tmp_path / "latest").resolve() == tmp_path / "run3"
    assert fit(short, ".").metrics[-1]["step"] == 12
    assert (tmp_path / "latest").resolve() == tmp_path / "run5"


def test_a_run_says_where_latest_is_not_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of a run, for example, or a file system without links: `latest` would be taken for the new run."""
    new = tmp_path / "new"
    new.mkdir()
    RunDirectory(new).point_latest()
    assert capsys.readouterr().err == ""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refuse)
        RunDirectory(new).point_latest()
    reason = "cannot be made a link to this run (Operation not permitted): it is"
    assert capsys.readouterr().err == f"{tmp_path / 'latest'} {reason} {new}.\n"
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "config.json").write_text("old")
    RunDirectory(new).point_latest()
    reason = "is not a link, and stays what it is: this run is"
    assert capsys.readouterr().err == f"{tmp_path / 'latest'} {reason} {new}.\n"
    assert (tmp_path / "latest" / "config.json").read_text() == "old"


@pytest.mark.slow
def test_bfloat16_reaches_the_loss_of_float32(run: Run, config: Config, tmp_path: Path) -> None:
    half = fit(replace(config, precision="bfloat16"), tmp_path / "half")
    assert half.model.dtype == load_run(tmp_path / "half").model.dtype == "bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {np.dtype("float32")}
    assert half.metrics[-1]["test_loss"] != run.metrics[-1]["test_loss"]
    np.testing.assert_allclose(half.metrics[-1]["test_loss"], run.metrics[-1]["test_loss"], rtol=0.01)


@pytest.mark.slow
def test_images_that_do_not_fit_are_sent_in_blocks(
    run: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flax_vae.fitting.host_input._RESIDENT_BYTES", 0)
    monkeypatch.setattr("flax_vae.fitting.host_input._BLOCK_BYTES", 5 * 50 * 784)  # 12 steps are 5 + 5 + 2
    fed = fit(config, tmp_path / "fed")
    for one, other in zip(untimed(fed.metrics), untimed(run.metrics), strict=True):
        np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-5)


def test_a_loss_that_is_not_finite_stops_with_the_step_and_advice(config: Config, tmp_path: Path) -> None:
    def explodes(model, x, key, step):
        loss = -model.infer(x, key).likelihood.log_prob(x)[0]
        return loss * jax.numpy.where(step < 14, 1.0, jax.numpy.inf), {"calm": loss}

    message = (
        r"step 24 and the 9 before were skipped: loss is inf, calm is \d+\.?\d*; the gradient is not finite in "
        r"decoder\.Dense_0\.bias and \d more; the largest log-scale is .*, in layers\.0\.posterior\. "
        r"Lower `learning_rate`.*of step 12 is intact"
    )
    with pytest.raises(UserError, match=message):
        fit(config, tmp_path / "run", objective=explodes)
    assert load_run(tmp_path / "run").metrics[-1]["step"] == 12


def test_a_run_that_skips_every_step_stops_with_the_reason(config: Config, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"step 10 and .*the norm of the gradient is \d+\.\d*; .* raise `skip_norm` \(now 0\.001\)"
    ):
        fit(replace(config, skip_norm=1e-3), tmp_path / "run")


def test_a_directory_that_holds_files_is_never_overwritten(run: Run, config: Config) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.directory.rglob("*")}
    with pytest.raises(UserError, match="is not empty"):
        fit(config, run.directory)
    assert {path: path.stat().st_mtime_ns for path in run.directory.rglob("*")} == before


def test_nothing_is_written_for_an_objective_that_cannot_train(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must return"):
        fit(config, tmp_path / "run", objective=lambda model, x, key, step: model.infer(x, key))
    assert not (tmp_path / "run").exists()


def test_a_warmup_longer_than_the_training_is_refused_with_both_numbers(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ELBO\(.*\): beta rises for 1000 steps, but the training has only \d+"):
        fit(config, tmp_path / "run", objective=ELBO(Warmup(1000)))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_parts_are_written_as_calls_and_stored_in_one_form(few_images: Path, tmp_path: Path) -> None:
    """In Python and in config.json alike, whatever spaces and keywords a call has."""
    parts = {"objective": "renyi( 0, num_samples = 3 )", "prior": "mixture(components=4)", "posterior": "iaf(layers=1)"}
    config = Config(preset="tutorial_dense(features=(20, 10))", dataset=str(few_images), epochs=1, **parts)
    assert config.objective == "renyi(alpha=0.0, num_samples=3)"
    assert config.num_samples == 3
    run = fit(config, tmp_path / "run")
    stored = json.loads((run.directory / "config.json").read_text())
    assert stored["preset"] == "tutorial_dense(features=(20, 10))"
    assert load_run(run.directory).config == config
    assert run.params["prior"]["loc"].shape == (4, 2)
    assert run.params["encoder"]["ReluDense_1"]["Dense_0"]["kernel"].shape == (20, 10)
    assert json.loads((run.directory / "provenance.json").read_text())["objective"] == "Renyi(alpha=0.0, num_samples=3)"


class Adversary:
    """A loss with the gradient of the ELBO's and minus its value, which rises as the model improves."""

    monitor = "elbo"

    def __call__(self, model: Any, x: Any, key: Any, step: Any) -> Any:
        loss, metrics = ELBO()(model, x, key, step)
        return loss - 2 * jax.lax.stop_gradient(loss), metrics


@pytest.mark.slow
def test_a_metric_chooses_the_best_checkpoint(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The objective declares the metric, the run records it, and the lines of the epochs mark the best one."""
    config = replace(config, ema_decay=0.0)
    run = fit(config, tmp_path / "run", objective=Adversary())
    elbos, losses = ([record[f"test_{name}"] for record in run.metrics] for name in ("elbo", "loss"))
    assert (np.argmax(elbos), np.argmin(losses)) == (2, 0)  # they disagree
    assert run.step == run.metrics[2]["step"]
    assert load_run(run.directory).config.monitor == "elbo"
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"  {elbos[2]:.2f}  " in last
    assert last.endswith("best")
    with pytest.raises(
        UserError, match=r"`monitor` accuracy is not .*Adversary.*: choose from distortion, elbo, .*rate\."
    ):
        fit(replace(config, monitor="accuracy"), tmp_path / "refused", objective=Adversary())
    assert not (tmp_path / "refused").exists()


def test_an_optimiser_for_a_part_that_the_model_lacks_is_refused(config: Config, tmp_path: Path) -> None:
    """The error names the part, and nothing is written."""
    with pytest.raises(UserError, match="no parameters are called encodr, only decoder, encoder, posterior"):
        fit(replace(config, optimizer="split(adam(), encodr=frozen())"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_frozen_part_keeps_its_initial_bits(config: Config, tmp_path: Path) -> None:
    """The training is interrupted and resumed, and equals one without interruption."""
    optimizer = "split(adam(), encoder=frozen(), posterior=every(adam(0.001), steps=2))"
    config = replace(config, optimizer=optimizer, schedule="constant", warmup_steps=0, epochs=2)
    whole = fit(config, tmp_path / "whole")
    part = fit(replace(config, epochs=1), tmp_path / "part")
    initial = build(config).initial_state().params
    jax.tree.map(np.testing.assert_array_equal, whole.params["encoder"], initial["encoder"])
    for name in ("posterior", "decoder"):
        assert not np.array_equal(*(jax.tree.leaves(tree[name])[-1] for tree in (whole.params, initial)))
    jax.tree.map(np.testing.assert_array_equal, resume(part.directory, epochs=2).params, whole.params)


@pytest.mark.slow
def test_a_validation_set_chooses_the_checkpoint_and_when_to_stop(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test set is evaluated once, at the end, with the parameters that the validation set has chosen."""

    def worsens(model, x, key, step):
        distortion = -model.infer(x, key).likelihood.log_prob(x)[0]
        climbs = 2 * jax.lax.stop_gradient(distortion) - distortion
        return jax.numpy.where(step < 10, distortion, climbs), {}

    config = replace(config, validation=1 / 6, epochs=6, early_stopping=2, keep=2, ema_decay=0.0, warmup_steps=0)
    run = fit(config, tmp_path / "run", objective=worsens)
    assert [record["step"] for record in run.metrics] == [
        10,
        20,
        30,
    ]  # of 500 images, until two were worse
    assert not any(name.startswith("test_") for record in run.metrics for name in record)
    losses = [record["validation_loss"] for record in run.metrics]
    assert losses[0] == min(losses)
    assert run.step == 10
    assert sorted(int(path.name) for path in (run.directory / "checkpoints").iterdir()) == [10, 20, 30]
    tested = json.loads((run.directory / "test.json").read_text())
    assert tested["step"] == 10
    assert abs(tested["loss"] - losses[0]) < 0.1 * losses[0]
    assert f"test loss {tested['loss']:.2f} at the best validation loss, step 10" in capsys.readouterr().err
    assert_same_run(resume(run.directory, objective=worsens), run)  # it stays stopped


@pytest.mark.slow
def test_an_objective_that_compares_images_sees_the_whole_batch(few_images: Path, tmp_path: Path) -> None:
    """The configuration asks for microbatches, into which batches are cut for other objectives."""
    config = Config(preset="tutorial_dense", dataset=str(few_images), epochs=1, batch_size=50, objective="dip_vae_i")
    whole, cut = (fit(replace(config, microbatch_size=n), tmp_path / str(n)) for n in (0, 10))
    assert_same_run(whole, cut)
