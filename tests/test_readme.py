"""What the README shows, as it stands there."""

import re
import sys
from pathlib import Path

import pytest

from flax_vae import Config, fit
from flax_vae.runs.build import load_objective

README = (Path(__file__).parents[1] / "README.md").read_text()
SCRIPT, OBJECTIVE, NETWORK = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

pytestmark = [pytest.mark.quick_compile, pytest.mark.usefixtures("without_pictures")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_script_and_network(home: Path, few_images: Path) -> None:
    """The network trains, and the script samples from its run; only the data set is a smaller one."""
    assert NETWORK.count("\n") <= 25
    few = f"Config(epochs=2, dataset={str(few_images)!r})"
    found: dict = {}
    exec(NETWORK.replace("Config(epochs=2)", few), found)
    assert found["run"].metrics[-1]["epoch"] == 2
    fit(Config(preset="tutorial_dense", epochs=1, dataset=str(few_images)), home / "runs" / "dense")
    exec(SCRIPT, found)
    assert found["images"].shape == found["again"].shape == (64, 28, 28, 1)
    assert found["way"].shape == (8, 28, 28, 1)
    assert found["plane"].shape == (30, 30, 28, 28, 1)
    assert found["means"].shape == (64, 2)
    assert found["bound"].shape == found["error"].shape == (64,)


def test_objective(home: Path, few_images: Path) -> None:
    (home / "losses.py").write_text(OBJECTIVE)
    assert callable(load_objective("losses:iwae"))
    run = fit(Config(preset="tutorial_dense", epochs=1, dataset=str(few_images), objective="losses:iwae"), home / "run")
    assert {"test_loss", "test_spread"} <= run.metrics[0].keys()
