"""Trainings in two processes, of which one is told to stop, or dies."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
from programs import start_together, together
from run_directories import assert_same_run

from flax_vae import load_run
from flax_vae.runs.checkpoints import saved_steps
from flax_vae.runs.directory import RunDirectory

pytestmark = pytest.mark.slow
EPOCHS = 40


@pytest.fixture(scope="module")
def words(few_images: Path) -> list[str]:
    flags = f"--preset tutorial_dense --dataset {few_images} --epochs {EPOCHS} --batch-size 50 --learning-rate 3e-3"
    return [*flags.split(), "--devices", "2"]


def begun(words: list[str], run: Path, epochs: int) -> list[subprocess.Popen[str]]:
    """Both processes, once as many epochs are done."""
    there = ["--resume", run] if run.exists() else [*words, "--out", run]
    processes = start_together(2, "train.py", *there, cwd=run.parent)
    while len(RunDirectory(run).metrics()) < epochs:
        time.sleep(0.1)
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
    return processes


def test_both_stop_where_one_is_told_to_and_end_where_one_dies(words: list[str], tmp_path: Path) -> None:
    """Each time the other ends within seconds, and at the end the run is what it would have been, bit for bit."""
    assert [code for code, *_ in together(2, "train.py", *words, "--out", tmp_path / "whole", cwd=tmp_path)] == [0, 0]
    run = tmp_path / "run"
    for epochs, told in ((3, 1), (6, 0)):
        processes = begun(words, run, epochs)
        processes[told].send_signal(signal.SIGTERM)
        for process in processes:
            _, err = process.communicate(timeout=20)
            assert process.returncode == 128 + signal.SIGTERM, err
            assert "Stopped and saved" in err
    for epochs, killed in ((9, 1), (12, 0), (15, 1)):
        processes = begun(words, run, epochs)
        processes[killed].kill()
        processes[killed].communicate()
        _, err = processes[1 - killed].communicate(timeout=20)
        # JAX itself ends those whose first process is gone: whoever is quicker says so.
        assert processes[1 - killed].returncode in ((1,) if killed else (1, -signal.SIGABRT)), err
        assert "Another of the 2 processes has ended. Checkpoints are whole" in err or "another task died" in err
        assert saved_steps(run / "checkpoints")
    done = together(2, "train.py", "--resume", run, cwd=tmp_path)
    assert [code for code, *_ in done] == [0, 0], done
    assert_same_run(load_run(run), load_run(tmp_path / "whole"))


@pytest.mark.parametrize("moment", [1.0, 3.0, 5.0])
def test_a_process_that_waits_for_the_others_ends_when_it_is_told_to(
    moment: float, words: list[str], tmp_path: Path
) -> None:
    """Whatever it does, or waits for: alone, it waits for the second one."""
    first, second = start_together(2, "train.py", *words, "--out", tmp_path / "run", cwd=tmp_path)
    second.kill()
    second.communicate()
    time.sleep(moment)
    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=5)
    assert first.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM), err
    assert "Traceback" not in err
