"""Shipped models, compiled as users compile them: real images are restored on other machines, at the expected cost."""

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from full_set import full_set

from flax_vae import bind, load_run, log_weights
from flax_vae.compression import compress, container, decompress, read_header
from flax_vae.runs.run import run_data

pytestmark = pytest.mark.optimized

MODELS = ("mlp", pytest.param("tutorial_conv", marks=pytest.mark.slow))
Compress = Callable[[str], Path]
MACHINES = {
    "older instructions": "--xla_cpu_max_isa=SSE4_2",
    "two devices": "--xla_force_host_platform_device_count=2",
    "the other code generator": "--xla_cpu_use_fusion_emitters=false",
    "fast math": "--xla_cpu_enable_fast_math=true",
}
if jax.__version_info__ >= (0, 11):  # whose XLA has one code generator
    del MACHINES["the other code generator"]
RESTORE = """
import sys
import numpy as np
from flax_vae import load_run
from flax_vae.compression import decompress

run = load_run(f"pretrained:{sys.argv[1]}")
images, _, _ = decompress(run.model, run.params, open(sys.argv[2], "rb").read())
np.save("restored.npy", images)
"""
# Computes the weights that code random levels, for each likelihood with levels, at random outputs of a decoder.
CHOICES = """
import sys
import jax
import numpy as np
from flax_vae.compression.pixels import _halves, _rounded
from flax_vae.models import LIKELIHOODS

random, weights = np.random.default_rng(0), {}
for name in LIKELIHOODS:
    head = LIKELIHOODS.make(name)
    levels, channels = getattr(head, "pixel_levels", None), 3 if name == "logistic_mixture" else 1
    if levels and name != "autoregressive":  # its pixels have one of the other likelihoods
        with jax.enable_x64(True):
            output = random.normal(size=(1, 200, 4, 4, len(head.start((0.5,) * channels))))
            pixels = _rounded(head(2 * jax.numpy.asarray(output)))
            for channel in range(channels):
                for width in sorted({2, min(32, levels), levels}):
                    low = random.integers(levels, size=(200, 4, 4, channels), dtype=np.int32)
                    high = low + 1  # of channels that are already decoded
                    low[..., channel] -= low[..., channel] % width
                    high[..., channel] = low[..., channel] + width
                    weights[f"{name} {channel} {width}"] = _halves(pixels, low, high, channel)
np.savez(sys.argv[1], **weights)
"""


@pytest.fixture(scope="module")
def binary(images: np.ndarray) -> np.ndarray:
    return np.where(images > 127, np.uint8(255), np.uint8(0))


@pytest.fixture(scope="module")
def compressed(binary: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Compress:
    """Compress the images with a model, once."""
    folder = tmp_path_factory.mktemp("compressed")

    @cache
    def compress_by(name: str) -> Path:
        run, path = load_run(f"pretrained:{name}"), folder / f"{name}.fvae"
        path.write_bytes(compress(run.model, run.params, binary))
        return path

    return compress_by


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "machine"), [*(("mlp", machine) for machine in MACHINES), ("tutorial_conv", "older instructions")]
)
def test_another_machine_restores_the_images(
    name: str,
    machine: str,
    binary: np.ndarray,
    compressed: Compress,
    tmp_path: Path,
    clean_environment: dict[str, str],
) -> None:
    """Decompress with other machine code, and with another number of devices."""
    words = [sys.executable, "-c", RESTORE, name, str(compressed(name))]
    environment = clean_environment | {"XLA_FLAGS": MACHINES[machine]}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, timeout=200, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "restored.npy"), binary)


@pytest.mark.slow
def test_every_likelihood_codes_alike_with_other_instructions(
    tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    """All weights are equal: if a single one differed, some file could not be restored."""
    found = []
    for instructions in ("SSE4_2", "AVX2", "AVX512"):
        environment = clean_environment | {"XLA_FLAGS": f"--xla_cpu_max_isa={instructions}"}
        words = [sys.executable, "-c", CHOICES, str(tmp_path / f"{instructions}.npz")]
        subprocess.run(words, env=environment, check=True, timeout=200, capture_output=True)
        found.append(dict(np.load(tmp_path / f"{instructions}.npz")))
    assert {name.split()[0] for name in found[0]} >= {"bernoulli", "logistic_mixture", "discretized_logistic"}
    for other in found[1:]:
        for name, weights in found[0].items():
            np.testing.assert_array_equal(weights, other[name], err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_images_cost_minus_the_elbo(name: str, binary: np.ndarray, compressed: Compress) -> None:
    """Compare the bits to 1 % plus four standard errors of one draw per image, as in test_compress.py."""
    run, content = load_run(f"pretrained:{name}"), compressed(name).read_bytes()
    elbos = jax.jit(lambda x: log_weights(bind(run.model, run.params).infer(x, jax.random.key(0), 30), x))
    draws = np.asarray(elbos(binary.astype(np.float32) / 255)) / -np.log(2)
    bits = 32 * len(container.read(content)[1]) - read_header(content).initial_bits
    assert bits < 1.01 * draws.mean(0).sum() + 4 * np.sqrt(draws.var(0).sum()) + 64


@full_set
@pytest.mark.slow
def test_real_images_cost_minus_the_elbo_to_one_percent() -> None:
    """Compress all test images with the shipped MLP, and compare their bits per dimension."""
    run = load_run("pretrained:mlp")
    images = run_data(run).test.x
    content = compress(run.model, run.params, images)
    np.testing.assert_array_equal(decompress(run.model, run.params, content)[0], images)
    elbos = jax.jit(lambda x: log_weights(bind(run.model, run.params).infer(x, jax.random.key(0), 8), x))
    means = [elbos(images[i : i + 500].astype(np.float32) / 255).mean() for i in range(0, len(images), 500)]
    expected = -np.mean(means) / np.log(2) / 784
    header = read_header(content)
    assert abs(header.bits_per_dim(8 * len(content) - header.initial_bits) / expected - 1) < 0.01
