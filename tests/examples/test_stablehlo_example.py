"""The StableHLO example runs without flax_vae."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_vae import export_run, load_run
from flax_vae.export.function_files import FunctionFiles

EXAMPLE = Path(__file__).parents[2] / "examples" / "stablehlo.py"
BLOCKED = "import runpy, sys; sys.modules['flax_vae'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"


@pytest.mark.slow
def test_it_draws_samples_and_their_reconstructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of `pretrained:mlp` are close to their reconstructions."""
    # test_function_files.py tests the check of exported files, which takes longer than the example.
    monkeypatch.setattr(FunctionFiles, "checked_bytes", lambda files, function: files.to_bytes(function))
    folder = export_run(load_run("pretrained:mlp"), "stablehlo", tmp_path / "exported")
    program = BLOCKED.replace("sys.argv[1]", repr(str(EXAMPLE)))
    command = [sys.executable, "-c", program, str(folder), "--out", "picture.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "picture.png") as picture:
        new, again = np.float64(np.asarray(picture)).reshape(2, 28, 280) / 255
    assert new.std() > 0.1
    assert np.abs(new - again).mean() < 0.3 * np.abs(new - new.mean()).mean()
