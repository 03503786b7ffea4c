"""The README's code runs as printed, and its table of parts follows the registries."""

import re
import sys
from pathlib import Path

import pytest

from flax_vae import Config, fit
from flax_vae.fitting.build import load_objective
from flax_vae.runs.config import PARTS

README = (Path(__file__).parents[1] / "README.md").read_text()
SCRIPT, OBJECTIVE, NETWORK = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BAR = r"\|"  # escaped, inside a table

pytestmark = [pytest.mark.quick_compile, pytest.mark.usefixtures("without_pictures")]


def parts_table() -> str:
    """Return the table of all registered parts. Run this file to print it."""
    rows = [
        f"| `--{kind}` | `{parts.signature(name)}` | {parts.meaning(name).replace('|', BAR)} |"
        for kind, parts in PARTS.items()
        for name in parts
    ]
    return "\n".join(["| flag | part | |", "|---|---|---|", *rows])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_the_table_of_parts_follows_the_registries() -> None:
    found = re.search(r"<!-- parts:.*?-->\n(.*?)\n<!-- /parts -->", README, re.DOTALL)
    assert found is not None
    assert found[1] == parts_table()


def test_script_and_network(home: Path, few_images: Path) -> None:
    """Train the network and run the script on its run, with a smaller data set."""
    assert NETWORK.count("\n") <= 25
    assert len(list(filter(None, SCRIPT.splitlines()))) == 10
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
    objective = "losses:iwae(num_samples=16)"
    assert objective in README
    assert callable(load_objective(objective))
    run = fit(Config(preset="tutorial_dense", epochs=1, dataset=str(few_images), objective=objective), home / "run")
    assert {"test_loss", "test_spread"} <= run.metrics[0].keys()


if __name__ == "__main__":
    print(parts_table())
