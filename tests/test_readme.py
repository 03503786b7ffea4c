"""The README's code runs as printed, and its table of parts follows the registries."""

import re
import sys
from pathlib import Path

import pytest

from flax_vae import Config, fit
from flax_vae.objectives import OBJECTIVES
from flax_vae.runs.config import PARTS

README = (Path(__file__).parents[1] / "README.md").read_text()
SCRIPT, OBJECTIVE, NETWORK = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BAR = r"\|"  # escaped, inside a table

pytestmark = pytest.mark.usefixtures("without_pictures")


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


def test_network(home: Path, few_images: Path) -> None:
    """Train the network with a smaller data set."""
    assert NETWORK.count("\n") <= 25
    namespace: dict = {}
    exec(NETWORK.replace("Config(epochs=2)", f"Config(epochs=2, dataset={str(few_images)!r})"), namespace)
    assert namespace["run"].metrics[-1]["epoch"] == 2


def test_objective_and_script(home: Path, few_images: Path) -> None:
    """Train with the objective, and run the script on the run."""
    (home / "losses.py").write_text(OBJECTIVE)
    objective = "losses:iwae(num_samples=16)"
    assert objective in README
    assert callable(OBJECTIVES.make(objective))
    config = Config(preset="tutorial_dense", epochs=1, dataset=str(few_images), objective=objective)
    assert {"test_loss", "test_spread"} <= fit(config, home / "runs" / "dense").metrics[0].keys()
    assert len(list(filter(None, SCRIPT.splitlines()))) == 9
    names: dict = {}
    exec(SCRIPT, names)
    assert names["images"].shape == names["again"].shape == (64, 28, 28, 1)
    assert names["way"].shape == (8, 28, 28, 1)
    assert names["plane"].shape == (30, 30, 28, 28, 1)
    assert names["means"].shape == (64, 2)
    assert names["bound"].shape == names["error"].shape == (64,)


if __name__ == "__main__":
    print(parts_table())
