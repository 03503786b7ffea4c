"""Run directories opened: whose parameters one gets, and what a damaged or hostile one does."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from run_directories import truncate_checkpoint

from flax_vae import Run, UserError, load_run, resume, sample

pytestmark = [pytest.mark.quick_compile, pytest.mark.usefixtures("without_pictures")]


def test_a_loaded_run_samples_what_the_trained_one_did(run: Run, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    loaded = load_run(".")
    key = jax.random.key(1)
    np.testing.assert_array_equal(sample(loaded.vae, loaded.params, key, 4), sample(run.vae, run.params, key, 4))
    assert loaded.examples.shape == (64, 28, 28, 1)


@pytest.mark.parametrize(
    ("harm", "step", "warning"),
    [
        (lambda d: (d / "metrics.jsonl").unlink(), 36, "no epoch is finished"),
        (lambda d: shutil.rmtree(d / "checkpoints" / "24"), 36, "the best, of step 24, is gone"),
        (lambda d: shutil.rmtree(d / "checkpoints" / "36"), 24, ""),
    ],
)
def test_whose_parameters_are_loaded_is_said_when_they_are_not_the_best(
    copy: Path, harm, step: int, warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    records[1]["test_loss"] = 0.0  # as if the second epoch had been the best
    (copy / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    shutil.copytree(copy / "checkpoints" / "36", copy / "checkpoints" / "24")
    harm(copy)
    assert load_run(copy).step == step
    err = capsys.readouterr().err
    assert err.count("\n") == bool(warning)
    assert warning in err


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shutil.rmtree, "not a run directory"),
        (lambda d: (d / "config.json").unlink(), "not a run directory"),
        (lambda d: (d / "config.json").write_text('{"form'), "cannot be read"),
        (lambda d: (d / "config.json").write_text("[]"), "format None"),
        (lambda d: (d / "config.json").write_text('{"format": 99}'), "format 99"),
        (lambda d: edit_config(d, latent_dims=3), "unknown entry 'latent_dims'; did you mean 'latent_dim'"),
        (lambda d: edit_config(d, latent_dim="two"), "--latent-dim is 'two', which is not int"),
        (
            lambda d: edit_config(d, preset="tutorial_dence"),
            "--preset tutorial_dence: there are gated_mlp, .* Did you mean tutorial_dense",
        ),
        (lambda d: edit_config(d, image_shape=[28, 28]), r"image_shape is \[28, 28\]"),
        (lambda d: edit_config(d, latent_dim=3), r"stored as \(2, 128\), the model wants \(3, 128\)"),
        (lambda d: shutil.rmtree(d / "checkpoints"), "holds no checkpoint"),
        (truncate_checkpoint, "damaged or of another model"),
        (lambda d: (d / "examples.npy").write_bytes(b"\x93NUMPY"), "examples.npy cannot be read"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_damaged_or_foreign_directory_gets_one_line(copy: Path, harm, message: str) -> None:
    harm(copy)
    with pytest.raises(UserError, match=message) as error:
        load_run(copy)
    assert "\n" not in str(error.value)


def edit_config(directory: Path, **changes: object) -> None:
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | changes))


def test_loading_executes_nothing_that_the_directory_names(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hostile.py").write_text("raise SystemExit('executed')")
    edit_config(copy, objective="hostile:objective", beta=None)
    pickled = np.array([print], dtype=object)
    monkeypatch.chdir(tmp_path)
    load_run(copy)
    with pytest.raises(UserError, match="add --objective hostile:objective"):
        resume(copy)
    np.save(copy / "examples.npy", pickled, allow_pickle=True)
    with pytest.raises(UserError, match=r"examples\.npy cannot be read"):
        load_run(copy)
