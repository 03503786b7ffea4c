"""The models that come with the package have the likelihoods of the table in benchmarks/density."""

from pathlib import Path

import jax
import numpy as np
import pytest

from flax_vae import load_run, log_likelihood
from flax_vae.cli.main import main
from flax_vae.data import draw_binary
from flax_vae.data.sources.fashion_mnist import from_subset
from flax_vae.runs.run import pretrained

# The number of draws, and the bound on the first 500 test images in nats, measured with the float32 parameters of the
# runs; for `ladder` and `grey`, in which float16 changes the bound by 0.028, with the parameters as shipped.
EXPECTED = {
    "mlp": (100, -229.305),
    "mlp_vamp": (100, -227.630),
    "tutorial_conv": (100, -254.309),
    "grey": (10, -1520.285),
    "ladder": (10, -224.340),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_pretrained_model_has_its_documented_likelihood(name: str) -> None:
    run, (draws, expected) = load_run(f"pretrained:{name}"), EXPECTED[name]
    images = from_subset("test", "for tests").images[:500]
    if run.config.binarize == "dynamic":
        images = draw_binary(images, (run.config.binarize_seed, 1))
    bound, *_ = log_likelihood(run.vae, run.params, images, jax.random.key(0), draws)
    np.testing.assert_allclose(np.mean(bound), expected, atol=0.02)


def test_they_are_small_enough_for_the_package() -> None:
    folder = pretrained("mlp").parent
    sizes = {path.stem: path.stat().st_size for path in folder.glob("*.safetensors")}
    assert sizes.keys() == EXPECTED.keys()
    assert max(sizes.values()) <= 3 * 2**20
    assert sum(sizes.values()) <= 12 * 2**20


def test_images_are_sampled_without_training(tmp_path: Path) -> None:
    assert main(["sample", "pretrained:mlp", "--out", str(tmp_path / "samples.png")]) == 0
    assert (tmp_path / "samples.png").stat().st_size > 1000
