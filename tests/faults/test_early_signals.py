"""SIGINT and SIGTERM at any moment after the start of a program: the right exit code, and no traceback."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, moments, start, within, words_of

from flax_vae import Config

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")

SLOW_SIGINT, SLOW_SIGTERM = (pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGTERM))
PROGRAMS = {
    "train.py": [str(ROOT / "train.py")],
    "flax-vae": [
        "-c",
        "import sys; from flax_vae.__main__ import main; sys.exit(main())",
        "train",
    ],  # as its script
    "python -m flax_vae": ["-m", "flax_vae", "train"],
}


def catches(process: subprocess.Popen[str], signum: int) -> bool:
    """Return True if a process has installed a handler for a signal."""
    (caught,) = (line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line)
    return bool(int(caught.split()[1], 16) >> signum - 1 & 1)


def interrupted(words: list[str], moment: float, signum: signal.Signals, cwd: Path) -> tuple[int, str]:
    """Send a signal this many seconds after a program's first lines; return its exit code and stderr."""
    process = subprocess.Popen(
        [sys.executable, *words], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not catches(process, signal.SIGTERM):  # not SIGINT, which Python itself catches earlier
        assert time.monotonic() < end
        time.sleep(0.001)
    time.sleep(moment)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def run(program: str) -> "subprocess.CompletedProcess[str]":
    """Run a program whose command is the function `work`."""
    program += """
import sys
from flax_vae.system.signals import run_program

def command():
    from flax_vae.cli.exits import run_command
    return run_command(lambda: work)

sys.exit(run_program(command))
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)


def assert_interrupted(
    program: str, moments: Iterable[float], signum: signal.Signals, config: Config, tmp_path: Path
) -> None:
    for moment in moments:
        code, err = interrupted([*PROGRAMS[program], *words_of(config, 9999)], moment, signum, tmp_path)
        assert code == 128 + signum, (moment, err)
        assert "Traceback" not in err, moment


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("program", "signum"),
    [("train.py", signal.SIGINT), ("flax-vae", signal.SIGTERM), ("python -m flax_vae", signal.SIGINT)],
)
def test_while_packages_are_imported(program: str, signum: signal.Signals, config: Config, tmp_path: Path) -> None:
    assert_interrupted(program, (0, 0.4), signum, config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_while_packages_are_imported(
    program: str, signum: signal.Signals, config: Config, tmp_path: Path
) -> None:
    assert_interrupted(program, (0, 0.3, 0.7), signum, config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, SLOW_SIGTERM])
def test_where_python_drops_exceptions(signum: signal.Signals, tmp_path: Path) -> None:
    """Python drops exceptions in callbacks of the garbage collector, which JAX has, and would continue."""
    program = f"""
import gc, signal, time

def interrupt(*_):
    gc.callbacks.remove(interrupt)
    signal.raise_signal({int(signum)})

def work():
    gc.callbacks.append(interrupt)
    gc.collect()
    print("dropped", flush=True)
    time.sleep(60)
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signum, "dropped\n", "Interrupted.\n")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [SLOW_SIGINT, signal.SIGTERM])
def test_where_an_import_replaces_the_exception(signum: signal.Signals) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("signum", [SLOW_SIGINT, signal.SIGTERM])
def test_while_a_library_computes_endlessly(signum: signal.Signals) -> None:
    """Python's handlers do not run there."""
    program = f"""
import os, threading

def work():
    import jax
    threading.Timer(1, os.kill, [os.getpid(), {int(signum)}]).start()
    jax.jit(lambda x: jax.lax.while_loop(lambda x: x >= 0, lambda x: 1 - x, x))(0).block_until_ready()
"""
    done = run(program)
    assert (done.returncode, done.stderr) == (128 + signum, "Interrupted.\n")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_until_the_first_steps(signum: signal.Signals, config: Config, tmp_path: Path) -> None:
    assert_interrupted("train.py", moments(np.random.default_rng(signum), 4, 0, 4), signum, config, tmp_path)


@pytest.mark.slow
def test_while_a_step_is_compiled(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_environment: dict[str, str]
) -> None:
    """Compiled as for users, the model takes over ten seconds; as there is nothing to save yet, the program ends."""
    for name in os.environ.keys() - clean_environment.keys():
        monkeypatch.delenv(name)
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
    """A signal may also come too late, after the exit."""
    for moment in moments(np.random.default_rng(signum), 4, 0, 4):
        code, err = interrupted([str(ROOT / "sample.py"), "pretrained:mlp"], moment, signum, tmp_path)
        assert code in (0, 128 + signum), (moment, err)
        assert "Traceback" not in err, moment
