"""Trainings that are killed or interrupted at any moment, and resumed, end exactly as undisturbed ones."""

import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from programs import SMALL, moments, start, wait_for_an_epoch, words_of
from run_directories import assert_same_run

from flax_vae import Config, Run, fit_many, load_run
from flax_vae.runs.directory import RunDirectory

pytestmark = pytest.mark.slow
EPOCHS, LONGEST = 20, 4.5  # seconds, from the first import


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(preset=SMALL, dataset=str(few_images), epochs=EPOCHS, batch_size=50, learning_rate=3e-3)


def chain(words: list[str], out: Path, signum: signal.Signals, times: int) -> list[tuple[float, int, float, str]]:
    """Start a training, send it a signal and resume it, this many times; then let it finish.

    Every second signal comes after an epoch, the others at any time from the first import.

    Returns:
        For each signal: the moment, the exit code, the seconds until the exit, and stderr.
    """
    results = []
    for number, moment in enumerate(moments(np.random.default_rng(signum), times, 0.3, LONGEST)):
        started = (out / "config.json").exists() or any(out.glob("*/config.json"))
        process = start("train.py", *(["--resume", out] if started else [*words, "--out", out]), cwd=out.parent)
        if number % 2:  # in the middle of training, however long the start takes
            wait_for_an_epoch(out, process)
            moment /= 2 * LONGEST
        time.sleep(moment)
        process.send_signal(signum)
        sent = time.monotonic()
        _, err = process.communicate(timeout=60)
        results.append((moment, process.returncode, time.monotonic() - sent, err))
    process = start("train.py", "--resume", out, cwd=out.parent)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return results


def assert_no_leftovers(directory: Path) -> None:
    names = {path.name for path in directory.iterdir()}
    expected = {"checkpoints", "config.json", "examples.npy", "metrics.jsonl", "pictures", "provenance.json"}
    assert names <= expected | {"tensorboard", ".lock"}
    assert all(path.name.isdecimal() for path in (directory / "checkpoints").iterdir())
    assert {path.name for path in directory.parent.iterdir()} <= {directory.name, "latest", "whole"}


def test_killed_again_and_again(config: Config, run: Run, tmp_path: Path) -> None:
    """At most the epoch that is being trained or saved is lost."""
    results = chain(words_of(config), tmp_path / "run", signal.SIGKILL, times=8)
    assert all("Traceback" not in err for *_, err in results)
    assert sum(code == -signal.SIGKILL for _, code, _, _ in results) >= 5
    assert_same_run(load_run(tmp_path / "run"), run)
    assert_no_leftovers(tmp_path / "run")


def test_stopped_again_and_again(config: Config, run: Run, tmp_path: Path) -> None:
    """Each time the training saves its state, reports it, and ends within five seconds."""
    results = chain(words_of(config), tmp_path / "run", signal.SIGTERM, times=5)
    for moment, code, seconds, err in results:
        assert code in (128 + signal.SIGTERM, -signal.SIGTERM, 0), (moment, err)
        assert seconds < 5, (moment, seconds)
        assert "Traceback" not in err
        # Python itself ends silently before the program's first line; a training that has just finished is not stopped.
        assert code <= 0 or "Stopped and saved. Resume with" in err or "Interrupted." in err, (moment, err)
    assert any("Stopped and saved" in err for *_, err in results)
    assert_same_run(load_run(tmp_path / "run"), run)
    assert_no_leftovers(tmp_path / "run")


def test_an_ensemble_killed_again_and_again(config: Config, tmp_path: Path) -> None:
    config = replace(config, epochs=8)
    configs = [replace(config, seed=seed) for seed in range(3)]
    expected = fit_many(configs, tmp_path / "expected")
    words = [*words_of(config), "--seeds", "3"]
    chain(words, tmp_path / "run", signal.SIGKILL, times=4)
    for run, other in zip(RunDirectory(tmp_path / "run").members(), expected, strict=True):
        assert_same_run(load_run(run.path), other)
