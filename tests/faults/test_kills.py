"""Trainings that are killed, or told to stop, at any moment: resumed, they end where they would have ended."""

import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from programs import start, words_of
from run_directories import assert_same_run

from flax_vae import Config, Run, fit_many, load_run
from flax_vae.runs.directory import RunDirectory

pytestmark = pytest.mark.slow
EPOCHS, LONGEST = 60, 7.0  # seconds: from importing to drawing the pictures


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(preset="tutorial_dense", dataset=str(few_images), epochs=EPOCHS, batch_size=50, learning_rate=3e-3)


def chain(words: list[str], out: Path, signum: signal.Signals, times: int = 20) -> list[tuple[float, int, float, str]]:
    """Start a training, send it a signal at a random moment and resume it, this many times; then let it end.

    Returns:
        Of each: when it was sent, the exit code, the seconds until then, and what was said.
    """
    moments = np.random.default_rng(signum).uniform(0.3, LONGEST, times)
    found = []
    for moment in moments:
        there = (out / "config.json").exists() or any(out.glob("*/config.json"))
        process = start("train.py", *(["--resume", out] if there else [*words, "--out", out]), cwd=out.parent)
        time.sleep(moment)
        process.send_signal(signum)
        sent = time.monotonic()
        _, err = process.communicate(timeout=60)
        found.append((moment, process.returncode, time.monotonic() - sent, err))
    process = start("train.py", "--resume", out, cwd=out.parent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return found


def assert_nothing_is_left_over(directory: Path) -> None:
    names = {path.name for path in directory.iterdir()}
    known = {"checkpoints", "config.json", "examples.npy", "metrics.jsonl", "pictures", "provenance.json"}
    assert names <= known | {"tensorboard", ".lock"}
    assert all(path.name.isdecimal() for path in (directory / "checkpoints").iterdir())
    assert {path.name for path in directory.parent.iterdir()} <= {directory.name, "latest", "whole"}


def test_killed_twenty_times(config: Config, run: Run, tmp_path: Path) -> None:
    """In the midst of whatever it does: no epoch is lost but the one that was being trained or saved."""
    found = chain(words_of(config), tmp_path / "run", signal.SIGKILL)
    assert all("Traceback" not in err for *_, err in found)
    assert sum(code == -signal.SIGKILL for _, code, _, _ in found) >= 10
    assert_same_run(load_run(tmp_path / "run"), run)
    assert_nothing_is_left_over(tmp_path / "run")


def test_stopped_twenty_times(config: Config, run: Run, tmp_path: Path) -> None:
    """Each time it ends within five seconds, says so, and has saved where it is."""
    found = chain(words_of(config), tmp_path / "run", signal.SIGTERM)
    for moment, code, seconds, err in found:
        assert code in (128 + signal.SIGTERM, -signal.SIGTERM, 0), (moment, err)
        assert seconds < 5, (moment, seconds)
        assert "Traceback" not in err
        # Before its first line Python ends without a word; and a training that had ended before has nothing to stop.
        assert code <= 0 or "Stopped and saved. Resume by" in err or "Interrupted." in err, (moment, err)
    assert any("Stopped and saved" in err for *_, err in found)
    assert_same_run(load_run(tmp_path / "run"), run)
    assert_nothing_is_left_over(tmp_path / "run")


def test_an_ensemble_killed_again_and_again(config: Config, tmp_path: Path) -> None:
    configs = [replace(config, seed=seed) for seed in range(3)]
    expected = fit_many(configs, tmp_path / "expected")
    words = [*words_of(config), "--seeds", "3"]
    chain(words, tmp_path / "run", signal.SIGKILL, times=8)
    for run, other in zip(RunDirectory(tmp_path / "run").members(), expected, strict=True):
        assert_same_run(load_run(run.path), other)
