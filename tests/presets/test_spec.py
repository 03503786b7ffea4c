"""The arguments that presets have in common."""

import inspect

import numpy as np
import pytest

from flax_vae import Ladder, gated_mlp, ladder
from flax_vae.presets import channel_means


def test_a_preset_takes_the_arguments_of_a_spec_and_its_own() -> None:
    assert list(inspect.signature(gated_mlp).parameters) == [
        "image_shape", "latent_dim", "posterior", "prior", "likelihood", "mean", "features",
    ]  # fmt: skip
    model = gated_mlp((4, 4, 1), 3, features=(5,))
    assert model == gated_mlp(image_shape=(4, 4, 1), latent_dim=3, features=(5,))
    assert model.posterior.latent_dim == model.prior.latent_dim == 3
    assert isinstance(ladder((4, 4, 1)), Ladder)
    with pytest.raises(TypeError, match="feature_sizes"):
        gated_mlp((4, 4, 1), feature_sizes=(5,))


def test_the_decoder_starts_at_the_mean() -> None:
    assert gated_mlp((4, 4, 1), mean=(0.5,)).decoder.output_bias == (0.0,)


def test_channel_means() -> None:
    images = np.zeros((3, 2, 2, 2), np.uint8)
    images[..., 1] = 51
    assert channel_means(images) == (0.0, 0.2)
