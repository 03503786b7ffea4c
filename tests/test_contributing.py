"""The example objective of CONTRIBUTING.md works wherever a part is written."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from flax_vae import Config, UserError, init_state, make_train_step, tutorial_dense
from flax_vae.objectives import OBJECTIVES

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
(BLOCK,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
WRITTEN = "squared_rate(weight=0.02)"


@pytest.fixture
def squared_rate(monkeypatch: pytest.MonkeyPatch) -> type:
    """Run the page's code and return its class; restore the registry afterwards."""
    for each in ("_makers", "facts"):
        monkeypatch.setattr(OBJECTIVES, each, dict(getattr(OBJECTIVES, each)))
    names: dict[str, Any] = {"__name__": "contributed"}
    exec(BLOCK, names)
    return names["SquaredRate"]


def test_it_takes_ten_lines() -> None:
    lines = [line for line in BLOCK[BLOCK.index("@") :].splitlines() if line]
    assert len(lines) <= 10
    assert "squared_rate" not in OBJECTIVES


def test_it_works_wherever_a_part_is_written(squared_rate: type, images: np.ndarray) -> None:
    assert WRITTEN in TEXT
    assert Config(objective=WRITTEN).objective == WRITTEN
    objective = OBJECTIVES.make(WRITTEN)
    assert objective == squared_rate(0.02)
    assert "- squared_rate(weight=0.01): distortion + weight·rate²: the higher" in OBJECTIVES.help()
    with pytest.raises(UserError, match=r"renyi, .*squared_rate, .*stl.*\. Did you mean squared_rate\?"):
        Config(objective="squared_rat")
    model, tx = tutorial_dense((28, 28, 1)), optax.adam(1e-3)
    state = init_state(model, tx, jax.random.key(0), (28, 28, 1))
    _, metrics = make_train_step(model, objective, tx)(state, images[:1])  # the mean over one image is its value
    np.testing.assert_allclose(metrics["loss"], metrics["distortion"] + 0.02 * metrics["rate"] ** 2, rtol=1e-5)
