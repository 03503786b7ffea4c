"""Configurations: one that cannot be trained is refused before any data is read."""

import dataclasses
import inspect
import json
import pydoc
import re
from pathlib import Path
from typing import Any

import pytest

from flax_vae import Config, UserError
from flax_vae.runs.config_file import config_content, parse_config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, not 0"),
        ({"learning_rate": float("nan")}, r"`learning_rate` must be greater than 0 and at most 3.4e\+38, not nan"),
        ({"beta": -1.0}, "`beta` must be at least 0, not -1.0"),
        ({"ema_decay": 1.0}, "`ema_decay` must be below 1, not 1.0"),
        (
            {"objective": "iwae(beta=2.0)"},
            r"keyword argument 'beta'; the signature is iwae\(num_samples=8\)",
        ),
        (
            {"objective": "elbo", "num_samples": 4},
            "`num_samples` belongs to `objective` .*dreg and .*iwae and .*renyi",
        ),
        ({"objective": "elbo(beta=4.0)", "beta": 2.0}, r"`beta` 2 contradicts `objective` elbo\(beta=4.0\)"),
        ({"objective": "renyi(alpha='a')"}, "alpha is 'a', which is not float"),
        ({"objective": "renyi(alpha=os.getcwd())"}, "is not a name or a call with literal arguments"),
        ({"prior": "vamp(components=0)"}, "components must be at least 1"),
        ({"posterior": "diagnal"}, r"choose from diagonal, .*full, .*iaf.*\. Did you mean diagonal\?"),
        ({"conditional": True, "prior": "vamp"}, "`conditional` requires `prior` normal.*, not vamp"),
        ({"objective": "beta_tcvae", "posterior": "full"}, "requires `levels` 1, `posterior` diagonal, and"),
        ({"objective": "dip_vae_i", "levels": 2}, "requires `levels` 1, `posterior` diagonal or .*full.*, and"),
        ({"objective": "beta_tcvae", "preset": "ladder"}, "and `preset` gated_mlp or .*residual_conv"),
        ({"objective": "iwae", "kl_warmup_epochs": 1.0}, "raise beta, which iwae does not have"),
        (
            {"objective": "elbo(beta=warmup(epochs=2))", "kl_warmup_epochs": 1.0},
            r"raise beta, which elbo\(beta=warmup\(epochs=2.0\)\) schedules itself",
        ),
        ({"objective": "elbo(beta=warmup(epochs=2))", "beta": 2.0}, r"`beta` 2 contradicts `objective` elbo\(beta=w"),
        (
            {"objective": "elbo(beta=warmup())"},
            r"`objective` warmup: .*'epochs'; the signature is warmup\(epochs, weight",
        ),
        ({"objective": "elbo(beta=warmpu(epochs=2))"}, "beta is warmpu.*, which is not one of cyclical, warmup"),
        ({"objective": "elbo(beta=warmup(epochs='2'))"}, "`objective` warmup.*: epochs is '2', which is not float"),
        ({"objective": "renyi(alpha=warmup(epochs=2))"}, r"alpha is warmup\(epochs=2\), which is not a literal"),
        ({"early_stopping": 2}, "`early_stopping` requires `validation`"),
        ({"epochs": 2.5}, "`epochs` is 2.5, which is not int"),
        ({"data_dir": 3}, "`data_dir` is 3, which is not str or None"),
        ({"kl_warmup_epochs": 9.0}, "9 epochs do not fit in 8 epochs"),
        ({"objective": "mine:f", "beta": 2.0}, "`beta` belongs to `objective` beta_tcvae and .*elbo.*, not to mine:f"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_configuration_that_cannot_be_trained_is_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        Config(**change)
    assert "\n" not in str(refused.value)


def test_images_of_earlier_runs_are_stretched() -> None:
    """Before there was a choice, all images were; what a run does not record means what its version did."""
    content = json.loads(json.dumps(config_content(Config(image_size=8), (8, 8, 1))))
    assert parse_config(content, Path("config.json"))[0] == Config(image_size=8, resize="crop")
    del content["resize"]
    assert parse_config(content, Path("config.json"))[0] == Config(image_size=8, resize="stretch")


@pytest.mark.parametrize(
    ("settings", "num_images", "batch_size", "epochs", "kl_warmup_epochs"),
    [
        ({}, 60_000, 128, 8, 0.0),
        ({}, 270, 32, 250, 0.0),
        ({}, 5, 1, 400, 0.0),
        ({"kl_warmup_epochs": 2.0}, 270, 32, 250, 62.5),
        ({"batch_size": 100}, 270, 100, 1000, 0.0),
        ({"preset": "tutorial_conv"}, 270, 32, 250, 0.0),
        ({"min_steps": 100}, 270, 32, 13, 0.0),
        ({"epochs": 3}, 270, 128, 3, 0.0),
    ],
)
def test_a_small_training_set_gets_smaller_batches_and_more_epochs(
    settings: dict[str, Any], num_images: int, batch_size: int, epochs: int, kl_warmup_epochs: float
) -> None:
    """Unless the number of epochs is given. A recipe counts epochs of a large set, and would make a few steps."""
    fitted = Config(**settings).fitted_to(num_images)
    assert (fitted.batch_size, fitted.epochs, fitted.min_steps) == (batch_size, epochs, 0)
    assert fitted.kl_warmup_epochs == kl_warmup_epochs
    assert fitted.fitted_to(num_images) == fitted


def test_the_signature_shows_the_defaults() -> None:
    """The fields are None until the preset's recipe fills them, but a signature full of None would not help."""
    shown = {name: setting.default for name, setting in inspect.signature(Config).parameters.items()}
    assert (shown["epochs"], shown["optimizer"], shown["latent_dim"]) == (8, "adam", 2)
    assert Config(**shown) == Config()
    of_init = inspect.signature(Config.__init__).parameters
    assert {name: setting.default for name, setting in of_init.items() if name != "self"} == shown
    assert Config(preset="tutorial_dense").epochs == 15


def test_help_describes_every_field() -> None:
    text = " ".join(pydoc.render_doc(Config, renderer=pydoc.plaintext).replace("|", "").split())
    for field in dataclasses.fields(Config):
        assert re.search(rf"\b{field.name}: [A-Z]", text), field.name
    assert "epochs = 8" in text
    assert "epochs = None" not in text
