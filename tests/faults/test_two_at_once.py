"""Two programs on one run directory, and a reader that closes its pipe."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import ROOT, call, start, words_of

from flax_vae import Config, UserError, load_run, resume

pytestmark = pytest.mark.slow


def test_a_run_in_training_can_be_sampled_but_not_trained_twice(config: Config, tmp_path: Path) -> None:
    """Parameters are read forty times while checkpoints are written and deleted."""
    out = tmp_path / "run"
    process = start("train.py", *words_of(config, 3000), "--out", out, cwd=tmp_path)
    end = time.monotonic() + 60
    while not any(path.name.isdecimal() for path in out.glob("checkpoints/*")):
        assert time.monotonic() < end
        time.sleep(0.05)
    steps = {load_run(out).step for _ in range(40)}
    with pytest.raises(UserError, match="another process trains here"):
        resume(out)
    assert process.poll() is None
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert "Stopped and saved" in err
    assert len(steps) > 1


def test_training_continues_after_its_reader_closes_the_pipe(config: Config, tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "train.py"), *words_of(config, 10), "--out", "run"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("epoch ")
        process.stdout.close()
        assert process.stderr
        err = process.stderr.read()
        assert process.wait(timeout=60) == 0, err
    assert "Traceback" not in err
    titles = [line.split()[0] for line in err.splitlines() if not line.startswith("epoch ")][-7:]
    assert titles == ["Data:", "x_train", "x_test", "Model:", "Loss:", "Training:", "Directory:"], err
    assert load_run(tmp_path / "run").metrics[-1]["epoch"] == 10
    code, out, err = call("sample.py", "run", cwd=tmp_path)
    assert (code, out, err.count("WARNING")) == (0, "samples.png\n", 0)
