"""The lines that a training logs before its first step."""

from dataclasses import replace
from pathlib import Path

import pytest

from flax_vae import Config
from flax_vae.fitting.build import build
from flax_vae.fitting.members import Member
from flax_vae.fitting.report import log_start
from flax_vae.runs.directory import RunDirectory


def start_lines(config: Config, capsys: pytest.CaptureFixture[str], members: int = 1, step: int = 0) -> list[str]:
    training = build(config, members=members)
    trainings = [replace(training, config=replace(config, seed=seed)) for seed in range(members)]
    directory = RunDirectory(Path("runs/mine"))
    capsys.readouterr()
    log_start(directory, [Member(directory, each, each.initial_state(), {}) for each in trainings], step)
    return capsys.readouterr().err.splitlines()


def test_a_start_names_data_model_and_place(few_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(preset="tutorial_dense", dataset=str(few_images), epochs=3, batch_size=50)
    assert start_lines(config, capsys) == [
        f"Data: 600 training + 100 test images of 28 x 28 x 1; x_train in {few_images} and x_test in {few_images}.",
        "Model: tutorial_dense with 202,516 parameters; objective elbo.",
        "Training: 36 steps of 50 images in 3 epochs, on cpu, in runs/mine.",
        "Bernoulli likelihood on grey values: the loss is their cross-entropy, in nats per image. It trains well, but "
        "it is not a density; compare it only with the same loss, or choose another likelihood.",
    ]


def test_a_start_warns_of_few_steps(few_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(preset="tutorial_dense", dataset=str(few_images), epochs=1, batch_size=50)
    assert "WARNING: a model hardly learns in 12 steps. Train for more epochs." in start_lines(config, capsys)


def test_a_start_names_what_was_held_out_resized_and_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(preset="tutorial_dense", dataset="sprites", image_size=8, validation=0.5, epochs=2)
    data, model, training, *_ = start_lines(config, capsys, members=2, step=1234)
    assert data == (
        "Data: 6,804 training + 6,804 validation + 1,512 test images of 8 x 8 x 1, resized (crop); drawn by flax_vae."
    )
    assert model.startswith("Model: 2 models, each tutorial_dense with ")
    assert training.startswith("Training: 106 steps of 128 images in 2 epochs, from step 1,234, on ")
