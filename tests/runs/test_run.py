"""Trained models as files: they open unchanged, and damage is reported."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from run_directories import assert_same_run

from flax_vae import Config, Run, UserError, encode, fit, load_run, reconstruct, sample, write_run
from flax_vae.batches import Batch
from flax_vae.cli.main import main
from flax_vae.runs.run import pretrained, run_data

pytestmark = pytest.mark.usefixtures("without_pictures")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def run(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A conditional run with averaged parameters, which stores more than other runs."""
    config = Config(
        preset="tutorial_dense", dataset=str(few_images), epochs=2, batch_size=50, ema_decay=0.9, conditional=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        return fit(config, tmp_path_factory.mktemp("runs") / "run")


def test_a_model_opens_from_its_files_as_from_its_directory(
    run: Run, few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is the same, except that the data set has lost its folder: it is found in the current one."""
    path = write_run(load_run(run.directory), tmp_path / "model")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    loaded = load_run(path)
    assert loaded.directory is None
    assert loaded.config == replace(run.config, dataset="./few.npz")
    assert (loaded.step, loaded.class_names) == (run.step, run.class_names)
    assert loaded.metrics == [record for record in run.metrics if record["step"] == run.step]
    jax.tree.map(np.testing.assert_array_equal, loaded.params, run.params)
    images = sample(loaded.model, loaded.params, KEY, 3, 1.0, loaded.contexts[:3])
    np.testing.assert_array_equal(images, sample(run.model, run.params, KEY, 3, 1.0, run.contexts[:3]))
    np.testing.assert_array_equal(loaded.examples, run.examples)
    monkeypatch.chdir(few_images.parent)
    np.testing.assert_array_equal(run_data(loaded).test.x, run_data(run).test.x)
    second = write_run(loaded, tmp_path / "second.safetensors")
    assert second.read_bytes() == path.read_bytes()
    assert_same_run(load_run(second), loaded)


def test_a_run_prints_as_a_few_lines(run: Run) -> None:
    """Otherwise an interactive session or a logged exception would show megabytes of parameters."""
    lines = repr(run).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) < 200
    assert lines[0] == f"Run {run.name}"
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(run.params)):,}" in lines[2]
    assert f"{run.metrics[-1]['test_loss']:.2f}" in repr(load_run(run.directory))


def test_half_precision_halves_the_file_and_hardly_changes_the_model(run: Run, tmp_path: Path) -> None:
    full, half = write_run(run, tmp_path / "full"), write_run(run, tmp_path / "half", half=True)
    examples = run.examples.nbytes
    assert half.stat().st_size - examples < 0.51 * (full.stat().st_size - examples)
    loaded = load_run(half)
    images = Batch(run.examples, run.contexts)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(loaded.params))
    for function in (lambda run: encode(run.model, run.params, images).mean(),
                     lambda run: reconstruct(run.model, run.params, images, KEY)):  # fmt: skip
        np.testing.assert_allclose(function(loaded), function(run), atol=0.01)


def edit(path: Path, **changes: object) -> None:
    about = path.with_suffix(".json")
    about.write_text(json.dumps(json.loads(about.read_text()) | changes))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite_config(path: Path, **changes: object) -> None:
    config = json.loads(path.with_suffix(".json").read_text())["config"]
    edit(path, config=config | changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "cannot be read"),
        (lambda path: path.with_suffix(".json").unlink(), "cannot be read"),
        (lambda path: path.with_suffix(".json").write_text("{"), "cannot be read"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "cannot be read"),
        (lambda path: edit(path, format=99), "format is 99"),
        (lambda path: edit(path, step=float("inf")), "cannot convert float infinity to integer"),
        (flip_bit, "does not have the checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "does not have the checksum"),
        (
            lambda path: rewrite_config(path, latent_dim=3),
            r"belongs to another model: .*stored as \(12, 128\)",
        ),
        (lambda path: rewrite_config(path, preset="other"), "`preset` other does not exist: choose from"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_damaged_files_are_reported_in_one_line(
    run: Run, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = write_run(run, tmp_path / "model")
    damage(path)
    with pytest.raises(UserError, match=message) as error:
        load_run(path)
    assert "\n" not in str(error.value)


def test_an_unknown_pretrained_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "pretrained:nothing"]) == 2
    err = capsys.readouterr().err
    assert "No pretrained model is called 'nothing': choose from grey, ladder, mlp, mlp_vamp, tutorial_conv." in err
    with pytest.raises(UserError, match=r"No pretrained model is called '\.\./mlp'"):
        pretrained("../mlp")
