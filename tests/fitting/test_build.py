"""Objectives of the user's own, by name."""

import sys
from pathlib import Path

import pytest

from flax_vae import UserError
from flax_vae.objectives import OBJECTIVES

pytestmark = pytest.mark.quick_compile


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("elbow", "choose from beta_tcvae, .*, or write my_module:my_objective"),
        ("absent_module:f", "no module absent_module"),
        ("own_losses:g", "has no function or class g"),
        ("own_losses:three", r"called as three\(model, x, key, step\), but too many positional arguments"),
    ],
)
def test_an_objective_that_cannot_be_loaded_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_losses.py").write_text("def three(vae, x, key): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_losses", raising=False)
    with pytest.raises(UserError, match=message):
        OBJECTIVES.make(name)
