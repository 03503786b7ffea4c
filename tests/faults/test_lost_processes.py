"""Trainings in two processes, one of which is interrupted or dies."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from programs import (
    SMALL,
    TRAIN_ONLY,
    free_address,
    moments,
    start,
    start_together,
    together,
    wait_for_an_epoch,
    within,
)
from run_directories import assert_same_run

from flax_vae import Run, load_run

pytestmark = pytest.mark.slow
EPOCHS, LONGEST = 12, 5.0  # seconds, from the first import to the pictures
SILENCE = 25  # seconds: after 8 without a heartbeat JAX considers a process dead
PROGRAM = """
import sys
from flax_vae.system.signals import run_program

def command():
    from flax_vae.cli.train import train
    from flax_vae.system import processes
    processes._SECONDS_TO_HEARTBEAT = 8  # users have half a minute, which the tests need not wait for
    return train()

sys.exit(run_program(command))
"""


@pytest.fixture(scope="module")
def words(few_images: Path) -> list[str]:
    flags = f"--preset {SMALL} --dataset {few_images} --epochs {EPOCHS} --batch-size 50 --learning-rate 3e-3"
    return [*flags.split(), "--devices", "2"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.py with a shorter time without heartbeats."""
    path = tmp_path_factory.mktemp("program") / "train.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def undisturbed(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same training, undisturbed."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = together(2, TRAIN_ONLY, *words, "--out", run, cwd=run.parent)
    assert [code for code, *_ in done] == [0, 0], done
    return load_run(run)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_again_and_again_at_any_moment(
    signum: signal.Signals, program: Path, words: list[str], undisturbed: Run, tmp_path: Path
) -> None:
    """One of two processes is killed or interrupted, at any time from the first import to the pictures.

    The other one ends too, by itself or, if it still waits for the first meeting, when it is interrupted as well.
    """
    run, random, messages = tmp_path / "run", np.random.default_rng(signum), []
    for number, moment in enumerate(moments(random, 4, 0.3, LONGEST)):
        arguments = ["--resume", run] if run.exists() else [*words, "--out", run]
        processes = start_together(2, program, *arguments, cwd=tmp_path)
        with within(*processes):
            if number % 2:  # in the middle of training, however long the start takes
                wait_for_an_epoch(run, *processes)
                moment /= 2 * LONGEST
            time.sleep(moment)
            target = int(random.integers(2))
            processes[target].send_signal(signum)
            _, one = processes[target].communicate(timeout=5)
            try:
                _, other = processes[1 - target].communicate(timeout=3)
            except subprocess.TimeoutExpired:  # it waits for the first meeting, or compiles
                processes[1 - target].terminate()
                _, other = processes[1 - target].communicate(timeout=SILENCE if signum == signal.SIGKILL else 5)
        assert "Traceback" not in one + other, (moment, target, one, other)
        assert ("Stopped and saved" in one) == ("Stopped and saved" in other), (moment, target, one, other)
        codes = [processes[target].returncode, processes[1 - target].returncode]
        assert codes[0] in (0, -signum, 128 + signum), (moment, target, codes, one)
        if "Stopped and saved" in other:
            assert codes == [128 + signal.SIGTERM] * 2, (moment, target, codes, one, other)
        if "checkpoints are intact" in other or "another task died" in other:
            assert codes[1] in (1, -signal.SIGABRT), (moment, target, codes, other)
        messages.append(other)
    # If the first process is gone, JAX itself may end the other one before our message.
    endings = ["Stopped and saved"] if signum == signal.SIGTERM else ["checkpoints are intact", "another task died"]
    assert sum(any(ending in other for ending in endings) for other in messages) >= 2, messages
    done = together(2, TRAIN_ONLY, "--resume", run, cwd=tmp_path)
    assert [code for code, *_ in done] == [0, 0], done
    assert_same_run(load_run(run), undisturbed)


def test_a_frozen_process(program: Path, words: list[str], tmp_path: Path) -> None:
    """The other process ends, and a single process can resume the training that both began."""
    run = tmp_path / "run"
    first, second = processes = start_together(2, program, *words, "--out", run, cwd=tmp_path)
    with within(first, second):
        wait_for_an_epoch(run, *processes)
        second.send_signal(signal.SIGSTOP)
        _, err = first.communicate(timeout=SILENCE)
        assert first.returncode in (1, -signal.SIGABRT), err
        assert "checkpoints are intact" in err or "another task died" in err
        assert "Traceback" not in err
    (done,) = together(1, TRAIN_ONLY, "--resume", run, cwd=tmp_path)
    assert done[0] == 0, done
    assert load_run(run).metrics[-1]["epoch"] == EPOCHS


@pytest.mark.parametrize("moment", [1.0, 3.0, 5.0])
def test_a_process_that_waits_for_the_others_can_be_interrupted(
    moment: float, words: list[str], tmp_path: Path
) -> None:
    """The first process waits for the second one, which has been killed."""
    first, second = start_together(2, "train.py", *words, "--out", tmp_path / "run", cwd=tmp_path)
    with within(first, second):
        second.kill()
        time.sleep(moment)
        first.send_signal(signal.SIGTERM)
        _, err = first.communicate(timeout=5)
    assert first.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), err
    assert "Traceback" not in err


def test_a_process_that_dies_between_the_first_meeting_and_the_first_step(words: list[str], tmp_path: Path) -> None:
    """The other process ends after half a minute."""
    address = free_address()
    second = f"""
import os, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize("{address}", 2, 1)
jax.devices()
os._exit(3)
"""
    flags = ["--coordinator", address, "--num-processes", 2, "--process-id", 0]
    first = start("train.py", *words, "--out", tmp_path / "run", *flags, cwd=tmp_path)
    with within(first):
        subprocess.run([sys.executable, "-c", second], timeout=60)
        _, err = first.communicate(timeout=60)
    assert first.returncode == 1, err
    assert "error: One of the 2 processes has ended. Start all of them again.\n" in err or "another task died" in err
    assert "Traceback" not in err
