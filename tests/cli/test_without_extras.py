"""Every command in an environment without extras: it works, or names the extra that it needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT

from flax_vae.cli import main
from flax_vae.export.formats import FORMATS


@pytest.mark.slow
def test_every_command_works_or_names_an_extra(few_images: Path, tmp_path: Path) -> None:
    """The kind: something that the package imports is installed for the tests alone."""
    words = [sys.executable, str(ROOT / "tests" / "without_extras.py"), str(few_images), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert {command.split()[0] for command in results} == set(main._COMMANDS)
    assert all(any(f"--format {name}" in command for command in results) for name in FORMATS)
    for command, (code, line) in results.items():
        extra = "onnx" if "onnx" in command else "hub" if "nobody" in command else None
        assert code == (2 if extra else 0), (command, line)
        assert extra is None or f"pip install 'flax_vae[{extra}]'" in line, (command, line)
