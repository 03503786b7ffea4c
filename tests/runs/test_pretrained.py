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

# The number of draws, and the bound in nats on the first 100 test images.
EXPECTED = {
    "mlp": (100, -220.143),
    "mlp_vamp": (100, -218.361),
    "tutorial_conv": (100, -241.453),
    "grey": (10, -1456.404),
    "ladder": (10, -215.721),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", EXPECTED)
def test_a_pretrained_model_has_its_documented_likelihood(name: str) -> None:
    run, (draws, expected) = load_run(f"pretrained:{name}"), EXPECTED[name]
    images = from_subset("test", "for tests").x[:100]
    if run.config.binarize == "dynamic":
        images = draw_binary(images, (run.config.binarize_seed, 1))
    bound, *_ = log_likelihood(run.model, run.params, images, jax.random.key(0), draws)
    np.testing.assert_allclose(np.mean(bound), expected, atol=0.02)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "mlp"])
def test_a_large_model_opens_with_its_own_examples(name: str) -> None:
    """Its parameters have their checksum and fit the configuration; its metrics and examples are of its last step."""
    run = load_run(f"pretrained:{name}")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))
    assert run.metrics[-1]["step"] == run.step
    assert run.examples.shape[1:] == (28, 28, 1)


def test_they_are_small_enough_for_the_package() -> None:
    folder = pretrained("mlp").parent
    sizes = {path.stem: path.stat().st_size for path in folder.glob("*.safetensors")}
    assert sizes.keys() == EXPECTED.keys()
    assert max(sizes.values()) <= 3 * 2**20
    assert sum(sizes.values()) <= 12 * 2**20


def test_images_are_sampled_without_training(tmp_path: Path) -> None:
    assert main(["sample", "pretrained:mlp", "--out", str(tmp_path / "samples.png")]) == 0
    assert (tmp_path / "samples.png").stat().st_size > 1000
