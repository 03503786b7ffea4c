"""The README's code runs as printed, in a folder of its own, and the table of parts follows the registries."""

import re
import sys
from pathlib import Path

import pytest

from flax_vae import Config, fit
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS
from flax_vae.objectives import OBJECTIVES
from flax_vae.runs.config import PARTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NETWORK, OBJECTIVE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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
    found = re.search(r"<!-- parts:.*?-->\n(.*?)\n<!-- /parts -->", (ROOT / "docs" / "parts.md").read_text(), re.DOTALL)
    assert found is not None
    assert found[1] == parts_table()


def test_it_is_short() -> None:
    assert README.count("\n") <= 150
    assert all(len(line) <= 80 for code in (NETWORK, OBJECTIVE) for line in code.splitlines())
    assert NETWORK.count("\n") <= 14


def test_it_counts_the_parts() -> None:
    kinds = {"likelihoods": LIKELIHOODS, "priors": PRIORS, "posteriors": POSTERIORS, "objectives": OBJECTIVES}
    for kind, parts in kinds.items():
        assert f"{len(list(parts))} {kind}" in README


def test_network(home: Path, few_images: Path) -> None:
    """Run the first script with a smaller data set."""
    namespace: dict = {}
    exec(NETWORK.replace("Config(epochs=2)", f"Config(epochs=2, dataset={str(few_images)!r})"), namespace)
    assert namespace["run"].metrics[-1]["epoch"] == 2
    assert namespace["images"].shape == (64, 28, 28, 1)
    assert namespace["means"].shape == (64, 8)
    assert namespace["again"].shape == (64, 28, 28, 1)


def test_objective(home: Path, few_images: Path) -> None:
    (home / "losses.py").write_text(OBJECTIVE)
    objective = "losses:iwae(num_samples=16)"
    assert f'--objective "{objective}"' in README
    config = Config(preset="tutorial_dense", epochs=1, dataset=str(few_images), objective=objective)
    assert {"test_loss", "test_spread"} <= fit(config, home / "runs" / "dense").metrics[0].keys()


if __name__ == "__main__":
    print(parts_table())
