"""Objectives that a configuration builds: with schedules, and of the user's own by name."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from flax_vae import Config, UserError
from flax_vae.fitting.build import build, own_parts
from flax_vae.objectives import OBJECTIVES
from flax_vae.objectives.schedules import at
from flax_vae.runs.config import PARTS
from flax_vae.runs.config_file import config_content, parse_config


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"kl_warmup_epochs": 1.5, "beta": 3.0}, "elbo(beta=warmup(epochs=1.5, weight=3))"),
        ({"kl_warmup_epochs": 1.0, "kl_cycles": 2}, "elbo(beta=cyclical(1.0, cycles=2))"),
        ({"beta": 3.0}, "elbo(beta=3)"),
    ],
)
def test_a_schedule_as_an_argument_equals_the_flags(flags: dict[str, Any], text: str, few_images: Path) -> None:
    """The weights are equal in each step of the training, after config.json has been read as well."""
    weights = []
    for settings in (flags, {"objective": text}):
        config = Config(dataset=str(few_images), epochs=4, batch_size=50, **settings)
        config, _ = parse_config(json.loads(json.dumps(config_content(config, (28, 28, 1)))), Path("config.json"))
        training = build(config)
        objective: Any = training.objective_at(config.beta)
        weights.append([float(at(objective.beta, jnp.asarray(step))) for step in range(training.total_steps)])
    assert weights[0] == weights[1]
    assert max(weights[0]) == flags.get("beta", 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("elbo(beta=warmup(epochs=9))", "a rise over 9 epochs does not fit in a training of 4 epochs"),
        ("elbo(beta=cyclical(epochs=3))", "4 cycles of 3 epochs do not fit in a training of 4 epochs"),
        ("elbo(beta=warmup(epochs=-1.0))", "epochs must be at least 0"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(text: str, message: str, few_images: Path) -> None:
    with pytest.raises(UserError, match=message):
        build(Config(dataset=str(few_images), epochs=4, batch_size=50, objective=text))


@pytest.mark.parametrize("kind", PARTS)
def test_a_part_that_cannot_be_imported_is_refused_before_the_data_are_loaded(kind: str) -> None:
    with pytest.raises(UserError, match=f"`{kind}` absent_module:f.*no module absent_module"):
        build(Config(dataset="absent.npz", **{kind: "absent_module:f"}))


@dataclass(frozen=True)
class Weighted:
    """An objective that its text, `test_build:Weighted(weight=0.5)`, cannot make: 0.5 is not an integer."""

    weight: int = 1

    def __call__(self, model: Any, x: Any, key: Any, step: Any) -> tuple[Any, dict[str, Any]]:
        return -self.weight * model.infer(x, key).likelihood.log_prob(x)[0], {}


def test_a_value_is_used_as_it_is(few_images: Path) -> None:
    """Also if it could be imported by name."""
    own = own_parts(None, Weighted(0.5), None)
    config = Config(dataset=str(few_images), epochs=1).naming(*own)
    assert config.objective == "test_build:Weighted(weight=0.5)"
    assert build(config, own).objective is own.objective


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
    (tmp_path / "own_losses.py").write_text("def three(model, x, key): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_losses", raising=False)
    with pytest.raises(UserError, match=message):
        OBJECTIVES.make(name)
