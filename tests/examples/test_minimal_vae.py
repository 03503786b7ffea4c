"""The minimal example runs as a program."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal_vae.py"


def test_example_learns_and_draws(few_images: Path, tmp_path: Path) -> None:
    """Train on few images: the loss falls, and ten samples are drawn side by side."""
    assert len(EXAMPLE.read_text().splitlines()) <= 80
    out = tmp_path / "samples.png"
    command = [sys.executable, str(EXAMPLE), "--dataset", str(few_images), "--epochs", "3", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    losses = list(map(float, re.findall(r"loss ([\d.]+)", done.stdout)))
    assert len(losses) == 3
    assert losses[2] < losses[1] < losses[0]
    with Image.open(out) as picture:
        pixels = np.asarray(picture)
        assert picture.width > 9 * picture.height
    assert pixels.std() > 0
