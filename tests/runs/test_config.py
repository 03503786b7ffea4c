"""Configurations: what cannot be trained is refused before anything is read."""

import pytest

from flax_vae import Config, UserError

pytestmark = pytest.mark.quick_compile


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs must be greater than 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be greater than 0"),
        ({"beta": -1.0}, "--beta must not be negative"),
        ({"ema_decay": 1.0}, "--ema-decay must be"),
        ({"objective": "iwae(beta=2.0)"}, "unexpected keyword argument 'beta'; it is iwae(num_samples=8)"),
        (
            {"objective": "elbo", "num_samples": 4},
            "--num-samples belongs to --objective dreg and iwae and renyi",
        ),
        ({"objective": "elbo(beta=4.0)", "beta": 2.0}, "--beta 2 and --objective elbo(beta=4.0): give it once"),
        ({"objective": "renyi(alpha='a')"}, "alpha is 'a', which is not float"),
        ({"objective": "renyi(alpha=os.getcwd())"}, "is not a name or a call with literal arguments"),
        ({"prior": "vamp(components=0)"}, "components must be at least 1"),
        ({"posterior": "diagnal"}, "there are diagonal, full, iaf. Did you mean diagonal?"),
        ({"conditional": True, "prior": "vamp"}, "--conditional goes with --prior normal, not with vamp"),
        ({"objective": "beta_tcvae", "posterior": "full"}, "goes with --levels 1 and --posterior diagonal"),
        ({"objective": "dip_vae_i", "levels": 2}, "goes with --levels 1 and --posterior diagonal or full"),
        ({"objective": "beta_tcvae", "preset": "ladder"}, "and with --preset gated_mlp or residual_conv"),
        ({"objective": "iwae", "kl_warmup_epochs": 1.0}, "let beta rise, which iwae does not have"),
        ({"early_stopping": 2}, "--early-stopping needs --validation"),
        ({"epochs": 2.5}, "--epochs is 2.5, which is not int"),
        ({"data_dir": 3}, "--data-dir is 3, which is not str or None"),
        ({"kl_warmup_epochs": 9.0}, "9 epochs do not end within 8 epochs"),
        ({"objective": "mine:f", "beta": 2.0}, "--beta belongs to --objective beta_tcvae and elbo, not to mine:f"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_configuration_that_cannot_be_trained_is_refused(change: dict, message: str) -> None:
    with pytest.raises(UserError) as refused:
        Config(**change)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
