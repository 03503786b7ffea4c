"""Trainings in two processes, of which one is told to stop, or dies."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from programs import free_address, start, start_together, together, within
from run_directories import assert_same_run

from flax_vae import Run, load_run

pytestmark = pytest.mark.slow
EPOCHS, LONGEST = 30, 8.0  # seconds: from importing to drawing the pictures
SILENCE = 45  # seconds: after 30 JAX takes a process for dead, if nothing tells sooner


@pytest.fixture(scope="module")
def words(few_images: Path) -> list[str]:
    flags = f"--preset tutorial_dense --dataset {few_images} --epochs {EPOCHS} --batch-size 50 --learning-rate 3e-3"
    return [*flags.split(), "--devices", "2"]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the training ends with where nothing happens."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = together(2, "train.py", *words, "--out", run, cwd=run.parent)
    assert [code for code, *_ in done] == [0, 0], done
    return load_run(run)


def wait_for_an_epoch(run: Path, processes: list[subprocess.Popen[str]]) -> None:
    """Or for the end, where none was left."""
    metrics = run / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else 0
    while all(process.poll() is None for process in processes):
        if metrics.exists() and metrics.stat().st_size > before:
            break
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_twenty_times_at_any_moment(signum: signal.Signals, words: list[str], whole: Run, tmp_path: Path) -> None:
    """One of two processes dies or is told to stop, from importing to drawing: the other ends as well, or when told."""
    run, random, said = tmp_path / "run", np.random.default_rng(signum), []
    for number, moment in enumerate(random.uniform(0.3, LONGEST, 20)):
        there = ["--resume", run] if run.exists() else [*words, "--out", run]
        processes = start_together(2, "train.py", *there, cwd=tmp_path)
        with within(*processes):
            if number % 2:  # in the midst of it, however long it takes to get there
                wait_for_an_epoch(run, processes)
                moment /= 2 * LONGEST
            time.sleep(moment)
            told = int(random.integers(2))
            processes[told].send_signal(signum)
            _, one = processes[told].communicate(timeout=5)
            try:
                _, other = processes[1 - told].communicate(timeout=3)
            except subprocess.TimeoutExpired:  # it waits for the first meeting, minutes if need be, or the first step
                processes[1 - told].terminate()
                _, other = processes[1 - told].communicate(timeout=SILENCE if signum == signal.SIGKILL else 5)
        assert "Traceback" not in one + other, (moment, told, one, other)
        assert ("Stopped and saved" in one) == ("Stopped and saved" in other), (moment, told, one, other)
        codes = [processes[told].returncode, processes[1 - told].returncode]
        assert codes[0] in (0, -signum, 128 + signum), (moment, told, codes, one)
        if "Stopped and saved" in other:
            assert codes == [128 + signal.SIGTERM] * 2, (moment, told, codes, one, other)
        if "Checkpoints are whole" in other or "another task died" in other:
            assert codes[1] in (1, -signal.SIGABRT), (moment, told, codes, other)
        said.append(other)
    # JAX itself ends those whose first process is gone: whoever is quicker says so.
    ways = ["Stopped and saved"] if signum == signal.SIGTERM else ["Checkpoints are whole", "another task died"]
    assert sum(any(way in other for way in ways) for other in said) >= 4, said
    done = together(2, "train.py", "--resume", run, cwd=tmp_path)
    assert [code for code, *_ in done] == [0, 0], done
    assert_same_run(load_run(run), whole)


def test_one_that_is_frozen(words: list[str], tmp_path: Path) -> None:
    """And can go on later: the other has ended, and one process resumes what both began."""
    run = tmp_path / "run"
    first, second = processes = start_together(2, "train.py", *words, "--out", run, cwd=tmp_path)
    with within(first, second):
        wait_for_an_epoch(run, processes)
        second.send_signal(signal.SIGSTOP)
        _, err = first.communicate(timeout=SILENCE)
        assert first.returncode in (1, -signal.SIGABRT), err
        assert "Checkpoints are whole" in err or "another task died" in err
        assert "Traceback" not in err
    (done,) = together(1, "train.py", "--resume", run, cwd=tmp_path)
    assert done[0] == 0, done
    assert load_run(run).metrics[-1]["epoch"] == EPOCHS


@pytest.mark.parametrize("moment", [1.0, 3.0, 5.0])
def test_a_process_that_waits_for_the_others_ends_when_it_is_told_to(
    moment: float, words: list[str], tmp_path: Path
) -> None:
    """Whatever it does, or waits for: alone, it waits for the second one."""
    first, second = start_together(2, "train.py", *words, "--out", tmp_path / "run", cwd=tmp_path)
    with within(first, second):
        second.kill()
        time.sleep(moment)
        first.send_signal(signal.SIGTERM)
        _, err = first.communicate(timeout=5)
    assert first.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), err
    assert "Traceback" not in err


def test_one_that_dies_between_the_first_meeting_and_the_first_step(words: list[str], tmp_path: Path) -> None:
    """The other waits for it half a minute."""
    where = free_address()
    second = f"""
import os, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("{where}", 2, 1)
jax.devices()
os._exit(3)
"""
    flags = ["--coordinator", where, "--num-processes", 2, "--process-id", 0]
    first = start("train.py", *words, "--out", tmp_path / "run", *flags, cwd=tmp_path)
    with within(first):
        subprocess.run([sys.executable, "-c", second], timeout=60)
        _, err = first.communicate(timeout=60)
    assert first.returncode == 1, err
    assert err.endswith("error: Another of the 2 processes has ended. Start all of them again.\n")
    assert "Traceback" not in err
