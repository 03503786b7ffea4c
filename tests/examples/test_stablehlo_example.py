"""The StableHLO example runs without flax_vae."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_vae import export_run, load_run

EXAMPLE = Path(__file__).parents[2] / "examples" / "stablehlo.py"
BLOCKED = "import runpy, sys; sys.modules['flax_vae'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"

pytestmark = pytest.mark.quick_compile


def test_it_draws_samples_and_their_reconstructions(tmp_path: Path) -> None:
    """Samples of `pretrained:tutorial_conv` are close to their reconstructions."""
    folder = export_run(load_run("pretrained:tutorial_conv"), "stablehlo", tmp_path / "exported")
    program = BLOCKED.replace("sys.argv[1]", repr(str(EXAMPLE)))
    command = [sys.executable, "-c", program, str(folder), "--out", "picture.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "picture.png") as picture:
        new, again = np.float64(np.asarray(picture)).reshape(2, 28, 280) / 255
    assert new.std() > 0.1
    assert np.abs(new - again).mean() < 0.3 * np.abs(new - new.mean()).mean()
