"""Evaluations of runs of several kinds."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_vae import Config, fit, load_run, sample
from flax_vae.evaluation.evaluate import evaluate
from flax_vae.evaluation.pictures import draw_pictures
from flax_vae.evaluation.plan import Plan
from flax_vae.metrics.classifier import Classifier, features
from flax_vae.runs.run import run_data

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.mark.slow
def test_a_run_with_other_parts_is_loaded_sampled_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run directory describes all parts; pixel levels give bits per dimension, and factors give scores."""
    monkeypatch.setattr("flax_vae.data.sources.sprites.POSITIONS", 4)  # a ninth of the images
    parts = {"likelihood": "discretized_logistic", "prior": "mixture", "posterior": "full", "levels": 2}
    config = Config(preset="tutorial_dense", dataset="sprites", image_size=8, epochs=1, latent_dim=3, **parts)
    run = fit(config, tmp_path / "parts")
    loaded = load_run(run.directory)
    assert loaded.config == config
    images = sample(loaded.model, loaded.params, jax.random.key(0), 4)
    np.testing.assert_array_equal(images, sample(run.model, run.params, jax.random.key(0), 4))
    assert images.shape == (4, 8, 8, 1)
    record = evaluate(run.directory, Plan(num_samples=(4,), num_images=10))
    bits = -record["importance_weighted"][0]["log_likelihood"] / (64 * np.log(2))
    np.testing.assert_allclose(record["bits_per_dim"], bits)
    assert 1 < bits < 8
    assert record["latent_dim"] == 6
    assert record["dimension_rates"] is None  # a mixture has no per-dimension KL
    scores = record["disentanglement"]
    assert scores.keys() == {"MIG", "SAP", "DCI disentanglement", "DCI completeness", "DCI informativeness"}
    assert all(0 <= score <= 1 for score in scores.values())
    assert scores["DCI informativeness"] > 0.25  # five factors of 3 to 7 values: above chance


@pytest.mark.slow
def test_binarised_pixels_have_bits_per_dimension(
    few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fixed and dynamic binarisation share the test images, which have a seed of their own."""
    compared: list[np.ndarray] = []

    def record_images(classifier: Classifier, images: np.ndarray) -> np.ndarray:
        compared.append(images)
        return features(classifier, images)

    monkeypatch.setattr("flax_vae.evaluation.figures.frechet.features", record_images)
    config = Config(preset="tutorial_dense", dataset=str(few_images), epochs=2, batch_size=50, binarize="fixed")
    fixed = fit(config, tmp_path / "fixed")
    dynamic = fit(replace(config, binarize="dynamic"), tmp_path / "dynamic")
    assert np.isin(fixed.examples, (0, 255)).all()
    np.testing.assert_array_equal(fixed.examples, dynamic.examples)
    with np.load(few_images) as grey:
        np.testing.assert_allclose(fixed.examples.mean(), grey["x_test"][:64].mean(), rtol=0.02)
    assert fixed.metrics[-1]["train_loss"] != dynamic.metrics[-1]["train_loss"]

    assert 0 < evaluate(fixed.directory, Plan(num_samples=(4,), num_images=10))["bits_per_dim"] < 1
    assert len(compared) == 3
    assert all(np.isin(images, (0, 255)).all() for images in compared)  # including the samples
    np.testing.assert_array_equal(run_data(dynamic, "fixed", 0).test.x[:64], fixed.examples)
    assert (run_data(fixed, "fixed", 1).test.x[:64] != fixed.examples).any()
    assert not np.isin(run_data(fixed, "none").test.x, (0, 255)).all()


@pytest.mark.slow
def test_a_ladder_is_evaluated_by_layers(few_images: Path, tmp_path: Path) -> None:
    """Figures that need one latent vector are None; all others are present."""
    preset = "ladder(widths=(8, 8), depths=(1, 1))"
    run = fit(Config(preset=preset, dataset=str(few_images), epochs=1, latent_dim=3), tmp_path / "ladder")
    record = evaluate(run.directory, Plan(num_samples=(4,), num_images=10))
    assert len(record["layer_rates"]) == 3
    np.testing.assert_allclose(sum(record["layer_rates"]), record["elbo"]["rate"], rtol=1e-5)
    assert record["latent_dim"] == 3
    assert record["surgery"] is None
    assert record["dimension_rates"] is None
    assert 0 < record["reconstruction_mse"] < 0.3
    assert record["frechet"]["distance"] > record["frechet"]["floor"]
    assert record["accuracy"].keys() == {"nearest_neighbours", "linear"}
    draw_pictures(tmp_path / "pictures", run, run_data(run).test, jax.random.key(0))
    drawn = {path.stem for path in (tmp_path / "pictures").iterdir()}
    assert drawn == {"reconstructions", "samples", "curves", "layers", "temperatures"}


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 2])
def test_few_images_of_one_class_or_two_are_evaluated(classes: int, few_images: Path, tmp_path: Path) -> None:
    """A single class has no accuracy and no Fréchet distance; all other figures are present."""
    with np.load(few_images) as arrays:
        train, test = arrays["x_train"][:8], arrays["x_test"][:3]
    labels = {"y_train": np.arange(8) % classes, "y_test": np.arange(3) % classes}
    np.savez(tmp_path / "few.npz", x_train=train, x_test=test, **labels)
    config = Config(preset="tutorial_dense", dataset=str(tmp_path / "few.npz"), epochs=1, batch_size=4)
    record = evaluate(fit(config, tmp_path / "run").directory, Plan(num_samples=(4,)))
    assert record["importance_weighted"][0]["images"] == 3
    assert (record["accuracy"] is None) == (record["frechet"] is None) == (classes == 1)
