"""Every model with levels compresses, to the last bit and to minus its ELBO."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae import Config, UserError, bind, init, load_run, log_weights
from flax_vae.compress import Header, compress, container, decompress, read_header
from flax_vae.runs.models import make_model

KEY = jax.random.key(0)
SHAPE, CLASSES = (6, 5, 1), 3
LADDER = "ladder(widths=(4, 4), depths=(1, 2), channels=1)"
AUTOREGRESSIVE = "autoregressive(head='logistic_mixture', reach=2, features=2, hidden=4)"


def config(**parts: Any) -> Config:
    return Config(**({"preset": "tutorial_dense(features=(8,))", "latent_dim": 3, "likelihood": "bernoulli"} | parts))


# Every likelihood of levels, every prior and posterior, hierarchies of both kinds, and labels.
CONFIGS = {
    "normal": config(),
    "full": config(posterior="full", likelihood="discretized_logistic"),
    "iaf": config(posterior="iaf(hidden=8)"),
    "mixture": config(prior="mixture(components=4)", likelihood="categorical"),
    "vamp": config(prior="vamp(components=4)", posterior="full", likelihood="beta_binomial"),
    "vamp of flows": config(prior="vamp(components=4)", posterior="iaf(hidden=8)"),
    "flow": config(prior="flow(layers=2, hidden=8)", likelihood="logistic_mixture(components=2)"),
    "flows": config(prior="flow(layers=2, hidden=8)", posterior="iaf(hidden=8)"),
    "levels": config(levels=3, prior="vamp(components=4)", posterior="full"),
    "labels": config(conditional=True, likelihood="discretized_logistic"),
    "pixels": config(likelihood=AUTOREGRESSIVE, prior="flow(layers=2, hidden=8)"),
    "ladder": config(preset=LADDER, prior="mixture(components=4)", likelihood="discretized_logistic"),
    "ladder of pixels": config(preset=LADDER, likelihood="autoregressive(reach=2, features=2, hidden=4)"),
    "convolutions": config(preset="tutorial_conv"),
}
every_model = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def images_for(config: Config, shape: tuple[int, ...] = SHAPE, count: int = 60) -> np.ndarray:
    """Smooth ramps and noise, black and white where pixels are binary."""
    random = np.random.default_rng(0)
    ramps = np.linspace(0, 1, int(np.prod(shape))).reshape(shape) * random.uniform(size=(count, 1, 1, 1))
    images = np.uint8(255 * np.clip(ramps + 0.1 * random.normal(size=(count, *shape)), 0, 1))
    return images if levels_of(config) == 256 else np.where(images > 90, np.uint8(255), np.uint8(0))


def levels_of(config: Config) -> int:
    return make_model(config, SHAPE).likelihood.pixel_levels


def model_of(config: Config, shape: tuple[int, ...] = SHAPE) -> tuple[Any, Any]:
    """A model whose first parameters are moved, so that no two distributions are alike."""
    vae, random = make_model(config, shape), np.random.default_rng(1)
    first = init(vae, KEY, shape, CLASSES if config.conditional else 0)
    return vae, jax.tree.map(lambda p: p + jnp.asarray(0.1 * random.normal(size=p.shape), p.dtype), first)


def labels_for(config: Config, images: np.ndarray) -> dict[str, Any]:
    return {"labels": np.arange(len(images)) % CLASSES, "classes": CLASSES} if config.conditional else {}


@every_model
def test_images_come_back_to_the_last_bit_and_cost_minus_the_elbo(config: Config) -> None:
    """Beside the bits of the first latents, labels and header: within 1 % and four standard errors of one draw each."""
    images, (vae, params) = images_for(config), model_of(config)
    given = labels_for(config, images)
    content = compress(vae, params, images, **given)
    restored, labels, header = decompress(vae, params, content)
    np.testing.assert_array_equal(restored, images)
    if given:
        np.testing.assert_array_equal(labels, given["labels"])
    assert header.images == len(images)

    @jax.jit
    def elbos(x: jax.Array, context: Any) -> jax.Array:
        return log_weights(bind(vae, params, context).infer(x, KEY, 400), x)

    context = np.eye(CLASSES, dtype=np.float32)[given["labels"]] if given else None
    draws = np.asarray(elbos(images.astype(np.float32) / 255, context)) / -np.log(2)
    words = container.read(content)[1]
    bits = 32 * len(words) - header.initial_bits - (np.log2(CLASSES) * len(images) if given else 0)
    # Less is possible: no value costs more than 24 bits, however improbable a model finds it.
    assert bits < 1.01 * draws.mean(0).sum() + 4 * np.sqrt(draws.var(0).sum()) + 64


def small() -> tuple[Any, Any, np.ndarray, bytes]:
    config = CONFIGS["full"]
    images, (vae, params) = images_for(config, count=5), model_of(config)
    return vae, params, images, compress(vae, params, images, names=("a", "b", "c", "d", "e"), model_name="mine")


def test_a_file_says_what_is_in_it() -> None:
    _, params, images, content = small()
    header = read_header(content)
    assert (header.images, header.shape, header.levels, header.name) == (5, SHAPE, 256, "mine")
    assert header.names == ("a", "b", "c", "d", "e")
    assert header.model == container.sum_of_model(params)
    assert header.bits_per_dim(8 * len(content)) == 8 * len(content) / images.size
    assert 0 < header.initial_bits < 8 * len(content)


def test_the_same_images_make_the_same_file() -> None:
    assert small()[-1] == small()[-1]


@pytest.mark.parametrize("count", [1, 2, 17, 300])
def test_any_number_of_images(count: int) -> None:
    """One alone; no whole block; more than the largest block."""
    config = CONFIGS["normal"]
    images, (vae, params) = images_for(config, count=count), model_of(config)
    restored, labels, header = decompress(vae, params, compress(vae, params, images))
    np.testing.assert_array_equal(restored, images)
    assert labels is None
    assert header.images == count


def test_colours() -> None:
    """A mixture whose channels depend on one another."""
    shape = (5, 4, 3)
    config = CONFIGS["flow"]
    images, (vae, params) = images_for(config, shape), model_of(config, shape)
    np.testing.assert_array_equal(decompress(vae, params, compress(vae, params, images))[0], images)


def test_an_altered_or_cut_file_is_refused() -> None:
    vae, params, _, content = small()
    for position in range(8, len(content), 7):
        altered = bytearray(content)
        altered[position] ^= 1 << position % 8
        with pytest.raises(UserError, match="damaged or cut off"):
            decompress(vae, params, bytes(altered))
    for length in (9, 12, 40, len(content) // 2, len(content) - 1):
        with pytest.raises(UserError, match="damaged or cut off"):
            decompress(vae, params, content[:length])
    for other in (b"", b"PK", b"\x00" * 100):
        with pytest.raises(UserError, match="no file that flax-vae compress wrote"):
            decompress(vae, params, other)


def test_another_model_is_refused() -> None:
    vae, params, _, content = small()
    other = jax.tree.map(lambda p: p + 1e-6, params)
    with pytest.raises(UserError, match=f"another model, mine with the sum {container.sum_of_model(params)}"):
        decompress(vae, other, content)


@pytest.mark.parametrize("config", [CONFIGS["full"], CONFIGS["iaf"], CONFIGS["pixels"]], ids=["full", "iaf", "pixels"])
@pytest.mark.parametrize("change", [1e-7, 1e-2])
def test_where_other_digits_are_computed_no_wrong_image_comes_out(config: Config, change: float) -> None:
    """As of another machine: a model whose numbers are a little different, in a file that says it is the one."""
    images, (vae, params) = images_for(config, count=20), model_of(config)
    header, words = container.read(compress(vae, params, images))
    other = jax.tree.map(lambda p: p * (1 + change), params)
    forged = container.write(Header(**vars(header) | {"model": container.sum_of_model(other)}), words)
    restored, refused = images, None
    try:
        restored = decompress(vae, other, forged)[0]
    except UserError as error:
        refused = str(error)
    np.testing.assert_array_equal(restored, images)
    assert "computes other digits" in (refused or "") or change < 1e-2


def test_a_header_that_makes_no_sense_is_refused() -> None:
    """Of a right checksum: by somebody who knows the format."""
    header, words = container.read(small()[-1])
    right = vars(header)
    for wrong in ({"counts": (0,)}, {"counts": (5, 5)}, {"shape": (6, 5)}, {"shape": (2**40, 1, 1)}, {"levels": 3},
                  {"filled": (-1,)}, {"counts": "x"}, {"names": ("a",)}, {"names": (1, 2, 3, 4, 5)},
                  {"counts": (2**30,)}, {"filled": (2**30,)}, {"shape": (2**15, 2**15, 3)}):  # fmt: skip
        forged = Header.__new__(Header)
        vars(forged).update(right | wrong)
        with pytest.raises(UserError, match="damaged, or of another program"):
            read_header(container.write(forged, words))
    with pytest.raises(UserError, match="ends in a word of zeros"):
        read_header(container.write(header, np.append(words, np.uint32(0))))


@pytest.mark.parametrize("words", [[], [5], [5, 6, 7], [2**32 - 1] * 1000])
def test_bits_that_are_no_images_are_refused(words: list[int]) -> None:
    """Of a right checksum, and of the model's sum."""
    vae, params, _, content = small()
    forged = container.write(read_header(content), np.array(words, np.uint32))
    with pytest.raises(UserError, match="cannot be restored here"):
        decompress(vae, params, forged)


def test_a_model_that_diverged_is_refused() -> None:
    vae, params = model_of(CONFIGS["normal"])
    with pytest.raises(UserError, match="the training diverged"):
        compress(vae, jax.tree.map(lambda leaf: leaf * np.nan, params), np.zeros((1, *SHAPE), np.uint8))


def test_images_of_another_kind_are_refused() -> None:
    vae, params = model_of(CONFIGS["normal"])
    with pytest.raises(UserError, match="pixels are 0 or 1, and these images have values between"):
        compress(vae, params, np.full((1, *SHAPE), 7, np.uint8))
    with pytest.raises(UserError, match="There are no images"):
        compress(vae, params, np.zeros((0, *SHAPE), np.uint8))
    vae, params = model_of(config(likelihood="per_pixel_normal"))
    with pytest.raises(UserError, match="Only a model whose pixels have levels"):
        compress(vae, params, np.zeros((1, *SHAPE), np.uint8))


MACHINES = {
    "two devices": "--xla_force_host_platform_device_count=2",
    "the other code generator": "--xla_cpu_use_fusion_emitters=false",
    "older instructions": "--xla_cpu_max_isa=SSE4_2",
    "fast math": "--xla_cpu_enable_fast_math=true",
}
RESTORE = """
import sys
import numpy as np
from flax_vae import load_run
from flax_vae.compress import decompress

run = load_run(sys.argv[1])
images, _, _ = decompress(run.vae, run.params, open(sys.argv[2], "rb").read())
np.save(sys.argv[3], images)
"""


@pytest.mark.parametrize("flags", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("name", ["mlp", "tutorial_conv"])
def test_what_one_machine_compresses_another_restores(
    name: str, flags: str, images: np.ndarray, tmp_path: Path
) -> None:
    """Whatever code XLA generates, and for how many devices: real images, models as they are shipped."""
    run = load_run(f"pretrained:{name}")
    binary = np.where(images > 127, np.uint8(255), np.uint8(0))
    (tmp_path / "images.fvae").write_bytes(compress(run.vae, run.params, binary))
    words = [sys.executable, "-c", RESTORE, run.name, "images.fvae", "images.npy"]
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, timeout=200, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), binary)


@pytest.mark.slow
def test_real_images_cost_what_the_model_says() -> None:
    """All test images, binarised, by the shipped MLP: within 1 % of minus its ELBO, in bits per dimension."""
    from flax_vae.runs.run import run_data

    run = load_run("pretrained:mlp")
    images = run_data(run).test.images
    content = compress(run.vae, run.params, images)
    np.testing.assert_array_equal(decompress(run.vae, run.params, content)[0], images)
    elbos = jax.jit(lambda x: log_weights(bind(run.vae, run.params).infer(x, KEY, 8), x))
    some = [elbos(images[i : i + 500].astype(np.float32) / 255).mean() for i in range(0, len(images), 500)]
    expected = -np.mean(some) / np.log(2) / 784
    header = read_header(content)
    assert abs(header.bits_per_dim(8 * len(content) - header.initial_bits) / expected - 1) < 0.01
