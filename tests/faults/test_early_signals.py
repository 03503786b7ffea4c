"""SIGINT and SIGTERM at any moment after the start of a program: its exit code, and no traceback."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, start, within, words_of

from flax_vae import Config

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")

PROGRAMS = {
    "train.py": [str(ROOT / "train.py")],
    "flax-vae": ["-c", "import sys; from flax_vae.__main__ import main; sys.exit(main())", "train"],  # as its script
    "python -m flax_vae": ["-m", "flax_vae", "train"],
}


def catches(process: subprocess.Popen[str], signum: int) -> bool:
    """Whether a process has said by now what a signal does to it."""
    (caught,) = (line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line)
    return bool(int(caught.split()[1], 16) >> signum - 1 & 1)


def interrupted(words: list[str], moment: float, signum: signal.Signals, cwd: Path) -> tuple[int, str]:
    """The exit code of a program, and what it says, when a signal comes this many seconds after its first lines."""
    process = subprocess.Popen(
        [sys.executable, *words], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not catches(process, signal.SIGTERM):  # Python itself, which starts before, catches SIGINT alone
        assert time.monotonic() < end
        time.sleep(0.001)
    time.sleep(moment)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def run(program: str) -> "subprocess.CompletedProcess[str]":
    """A program whose command is the function `work`, to its end."""
    program += """
import sys
from flax_vae.system.signals import run_program

def command():
    from flax_vae.cli.exits import run_command
    return run_command(lambda: work)

sys.exit(run_program(command))
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", PROGRAMS)
def test_while_packages_are_imported(program: str, signum: signal.Signals, config: Config, tmp_path: Path) -> None:
    for moment in (0, 0.1, 0.4, 0.9):
        code, err = interrupted([*PROGRAMS[program], *words_of(config, 9999)], moment, signum, tmp_path)
        assert code == 128 + signum, (moment, err)
        assert "Traceback" not in err, moment


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_where_exceptions_are_lost(signum: signal.Signals, tmp_path: Path) -> None:
    """JAX has a callback of the garbage collector: Python drops what is raised in it, and would go on."""
    program = f"""
import gc, signal, time

def lose(*_):
    gc.callbacks.remove(lose)
    signal.raise_signal({int(signum)})

def work():
    gc.callbacks.append(lose)
    gc.collect()
    print("lost", flush=True)
    time.sleep(60)
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signum, "lost\n", "Interrupted.\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_where_an_import_makes_another_error_of_it(signum: signal.Signals) -> None:
    program = f"""
import signal

def work():
    try:
        signal.raise_signal({int(signum)})
    except KeyboardInterrupt:
        raise ImportError("initialization failed") from None
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (128 + signum, "Interrupted.\n")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_while_a_library_computes_without_end(signum: signal.Signals) -> None:
    """There Python's handlers never run."""
    program = f"""
import os, threading

def work():
    import jax
    threading.Timer(2, os.kill, [os.getpid(), {int(signum)}]).start()
    jax.jit(lambda x: jax.lax.while_loop(lambda x: x >= 0, lambda x: 1 - x, x))(0).block_until_ready()
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (128 + signum, "Interrupted.\n")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_until_the_first_steps(signum: signal.Signals, config: Config, tmp_path: Path) -> None:
    for moment in np.random.default_rng(signum).uniform(0, 4, 10):
        code, err = interrupted([*PROGRAMS["train.py"], *words_of(config, 9999)], moment, signum, tmp_path)
        assert code == 128 + signum, (moment, err)
        assert "Traceback" not in err, moment


@pytest.mark.slow
def test_while_a_step_is_compiled(config: Config, tmp_path: Path) -> None:
    """Of a model that takes over ten seconds to compile: there is nothing to save yet, so nothing to wait for."""
    words = f"--preset ladder --dataset {config.dataset} --batch-size 50 --out run"
    process = start("train.py", *words.split(), cwd=tmp_path)
    with within(process):
        while not (tmp_path / "run" / "config.json").exists():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=5)
    assert process.returncode == 128 + signal.SIGTERM
    assert err.endswith("Interrupted.\n")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_until_the_end(signum: signal.Signals, tmp_path: Path) -> None:
    """Or after it, when there is nothing to interrupt any more."""
    for moment in np.random.default_rng(signum).uniform(0, 4, 10):
        code, err = interrupted([str(ROOT / "sample.py"), "pretrained:mlp"], moment, signum, tmp_path)
        assert code in (0, 128 + signum), (moment, err)
        assert "Traceback" not in err, moment
