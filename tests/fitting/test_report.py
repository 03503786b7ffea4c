"""The lines that a training logs before its first step, and those of its epochs."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from flax_vae import Config, fit
from flax_vae.fitting.build import build
from flax_vae.fitting.lines import EpochLines
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
        "Data:      600 training + 100 test images of 28 x 28 x 1",
        f"           x_train in {few_images}",
        f"           x_test in {few_images}",
        "Model:     tutorial_dense, 202,516 parameters",
        "Loss:      elbo, nats per image; grey values by cross-entropy (not a density)",
        "Training:  36 steps of 50 images in 3 epochs, on cpu",
        "Directory: runs/mine",
    ]


def test_a_start_warns_of_few_steps(few_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(preset="tutorial_dense", dataset=str(few_images), epochs=1, batch_size=50)
    assert "WARNING: a model hardly learns in 12 steps. Train for more epochs." in start_lines(config, capsys)


def test_a_start_names_what_was_held_out_resized_and_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(preset="tutorial_dense", dataset="sprites", image_size=8, validation=0.5, epochs=2)
    data, source, model, _, training, _ = start_lines(config, capsys, members=2, step=1234)
    assert data == "Data:      6,804 training + 6,804 validation + 1,512 test images of 8 x 8 x 1, resized (crop)"
    assert source.strip() == "drawn by flax_vae"
    assert model.startswith("Model:     2 x tutorial_dense, ")
    assert training.startswith("Training:  106 steps of 128 images in 2 epochs, from step 1,234, on ")


def record_of(epoch: int, loss: float, **more: float) -> dict[str, float]:
    terms = {"loss": loss, "rate": 0.02 * loss, "distortion": 0.98 * loss, "skipped": 0.0}
    both = {f"{part}_{name}": value for part in ("train", "test") for name, value in terms.items()}
    return {"epoch": epoch, "step": 469 * epoch, "seconds": 16.2 * epoch, "images_per_second": 12309.0} | both | more


def test_epochs_are_columns_of_a_table() -> None:
    lines = EpochLines(epochs=12)
    shown = [lines.header(record_of(1, 1.0)), lines.line([record_of(9, 300.44)], best=True)]
    shown.append(lines.line([record_of(10, 12345.678)]))
    assert shown == [
        "epoch  train loss  test loss  reconstruction      KL  images/s    time",
        " 9/12      300.44     300.44          294.43    6.01    12,309   146 s  best",
        "10/12       12346      12346           12099  246.91    12,309   162 s",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        EpochLines(100),
        EpochLines(100, speed_unit="examples/s"),
        EpochLines(100, seeds=3),
        EpochLines(100, monitor="elbo"),
        EpochLines(100, labels=("learning rate 0.001, beta 0.5", "learning rate 0.001, beta 1")),
        EpochLines(8, seeds=3, labels=("beta 0.5", "beta 1")),
    ],
    ids=["a run", "vectors", "seeds", "a metric", "settings", "seeds of settings"],
)
def test_epochs_fit_into_80_columns(lines: EpochLines) -> None:
    """Their columns stand under their titles."""
    records = [record_of(8, 1262.1 + seed, test_elbo=-262.1) for seed in range(lines.seeds)]
    header = lines.header(records[0])
    for label in lines.labels:
        line = lines.line(records, label, lines.seeds, best=True)
        assert len(line) <= 80
        for title in ("test loss", "reconstruction", "KL"):
            end = header.index(title) + len(title)
            assert line[end - 1].isdigit()
            assert line[end : end + 2] == "  " or end >= len(line)


def test_another_metric_that_chooses_the_best_epoch_has_a_column() -> None:
    records = [record_of(1, 262.1, test_elbo=-262.1)]
    assert "test elbo" in EpochLines(1, monitor="elbo").header(records[0])
    assert "-262.10" in EpochLines(1, monitor="elbo").line(records)


def test_seeds_that_diverged_and_skipped_steps_are_reported() -> None:
    """A setting may have fewer seeds than another."""
    records = [record_of(1, 1.0, train_skipped=0.02), record_of(1, 2.0)]
    lines = EpochLines(1, seeds=4, labels=("beta 1", "beta 2"))
    assert lines.line(records, "beta 1", 3).endswith("1.00% of the steps skipped  2 of 3 seeds")
    assert lines.line(records, "beta 2", 2).endswith("1.00% of the steps skipped")


def test_losses_that_are_not_finite_are_shown() -> None:
    line = EpochLines(1, seeds=2).line([record_of(1, 1.0), record_of(1, float("inf"))], seeds=2)
    assert "inf ± nan" in line


def test_without_held_out_examples_or_terms_of_the_elbo() -> None:
    lines = EpochLines(1)
    record = {name: value for name, value in record_of(1, 2.5).items() if name in ("epoch", "step", "seconds")}
    record |= {"images_per_second": 0.0, "train_loss": 2.5, "train_skipped": 0.0}
    assert lines.header(record) == "epoch  train loss  images/s    time"
    assert lines.line([record]).split() == ["1/1", "2.50", "0", "16", "s"]


def test_a_validation_set_has_short_titles() -> None:
    record = {name.replace("test_", "validation_"): value for name, value in record_of(1, 2.5).items()}
    assert EpochLines(1).header(record).startswith("epoch  train loss  val loss  reconstruction")


def test_a_training_without_a_terminal_says_where_it_is(
    few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least every thirty seconds, here after each dispatch."""
    monkeypatch.setattr("flax_vae.fitting.report._SECONDS_WITHOUT_A_LINE", 0.0)
    monkeypatch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
    fit(Config(preset="tutorial_dense", dataset=str(few_images), epochs=2, batch_size=50), tmp_path / "run")
    out, err = capsys.readouterr()
    assert re.search(r"^epoch 2/2  100 %  loss [\d.]+  [\d,]+ images/s  0 s left$", err, re.MULTILINE)
    assert [line.split()[0] for line in out.splitlines()] == ["epoch", "1/2", "2/2"]
