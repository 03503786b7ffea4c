"""Models with pixel levels restore images exactly, at a cost of minus their ELBO."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae import Config, UserError, bind, init, log_weights
from flax_vae.compression import Header, blocks, compress, container, decompress, read_header
from flax_vae.runs.models import make_model

KEY = jax.random.key(0)
SHAPE, CLASSES = (6, 5, 1), 3
LADDER = "ladder(widths=(4, 4), depths=(1, 2), channels=1)"
BLOCK_SIZES = {name: getattr(blocks, name) for name in ("_SIZES", "_SIZES_BY_PIXEL")}
AUTOREGRESSIVE = "autoregressive(head='logistic_mixture', reach=2, features=2, hidden=4)"


def config(**parts: Any) -> Config:
    return Config(**({"preset": "tutorial_dense(features=(8,))", "latent_dim": 3, "likelihood": "bernoulli"} | parts))


# Every likelihood with pixel levels, every prior and posterior, both kinds of hierarchy, and labels.
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
    "ladder of pixels": config(
        preset="ladder(widths=(4,), depths=(1,), channels=1)",
        likelihood="autoregressive(reach=2, features=2, hidden=4)",
    ),
}


def images_for(config: Config, shape: tuple[int, ...] = SHAPE, count: int = 60) -> np.ndarray:
    """Return smooth ramps with noise, in black and white if the model's pixels are binary."""
    random = np.random.default_rng(0)
    ramps = np.linspace(0, 1, int(np.prod(shape))).reshape(shape) * random.uniform(size=(count, 1, 1, 1))
    images = np.uint8(255 * np.clip(ramps + 0.1 * random.normal(size=(count, *shape)), 0, 1))
    return images if levels_of(config) == 256 else np.where(images > 90, np.uint8(255), np.uint8(0))


def levels_of(config: Config) -> int:
    return make_model(config, SHAPE).likelihood.pixel_levels


@pytest.fixture(autouse=True)
def one_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile programs for one block size, to which smaller blocks are padded; one test uses all sizes."""
    for sizes in BLOCK_SIZES:
        monkeypatch.setattr(blocks, sizes, (64,))


def model_of(config: Config, shape: tuple[int, ...] = SHAPE) -> tuple[Any, Any]:
    """Return a model with random parameters, so that all distributions differ."""
    model, random = make_model(config, shape), np.random.default_rng(1)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        scale = 0.5 / np.sqrt(np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.1
        return jnp.asarray(scale * random.normal(size=leaf.shape), leaf.dtype)

    shapes = jax.eval_shape(lambda: init(model, KEY, shape, CLASSES if config.conditional else 0))
    return model, jax.tree.map(draw, shapes)


def labels_for(config: Config, images: np.ndarray) -> dict[str, Any]:
    return {"labels": np.arange(len(images)) % CLASSES, "classes": CLASSES} if config.conditional else {}


@pytest.mark.quick(1)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_images_are_restored_exactly_and_cost_minus_the_elbo(config: Config) -> None:
    """Compare the bits with the ELBO, to 1 % plus four standard errors of one draw per image.

    The bits of header, labels and the first latents are excluded.
    """
    images, (model, params) = images_for(config), model_of(config)
    labelled = labels_for(config, images)
    content = compress(model, params, images, **labelled)
    restored, labels, header = decompress(model, params, content)
    np.testing.assert_array_equal(restored, images)
    if labelled:
        np.testing.assert_array_equal(labels, labelled["labels"])
    assert header.images == len(images)

    @jax.jit
    def elbos(x: jax.Array, context: Any) -> jax.Array:
        return log_weights(bind(model, params, context).infer(x, KEY, 100), x)

    context = np.eye(CLASSES, dtype=np.float32)[labelled["labels"]] if labelled else None
    draws = np.asarray(elbos(images.astype(np.float32) / 255, context)) / -np.log(2)
    words = container.read(content)[1]
    bits = 32 * len(words) - header.initial_bits - (np.log2(CLASSES) * len(images) if labelled else 0)
    # Fewer bits are possible: no value costs more than 24 bits, however improbable it is.
    assert bits < 1.01 * draws.mean(0).sum() + 4 * np.sqrt(draws.var(0).sum()) + 64


@cache
def small() -> tuple[Any, Any, np.ndarray, bytes]:
    """Return a model, its parameters, images, and their compressed file."""
    config = CONFIGS["full"]
    images, (model, params) = images_for(config, count=5), model_of(config)
    return model, params, images, compress(model, params, images, names=("a", "b", "c", "d", "e"), model_name="mine")


def test_a_header_describes_the_file() -> None:
    _, params, images, content = small()
    header = read_header(content)
    assert (header.images, header.shape, header.levels, header.name) == (5, SHAPE, 256, "mine")
    assert header.names == ("a", "b", "c", "d", "e")
    assert header.model == container.model_checksum(params)
    assert header.bits_per_dim(8 * len(content)) == 8 * len(content) / images.size
    assert 0 < header.initial_bits < 8 * len(content)


def test_compression_is_deterministic() -> None:
    assert small()[-1] == small.__wrapped__()[-1]


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("name", "count"), [("normal", 1), ("normal", 2), ("normal", 17), ("normal", 300), ("pixels", 20)]
)
def test_any_number_of_images(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compress a single image, an incomplete block, and more than the largest block."""
    for sizes, usual in BLOCK_SIZES.items():
        monkeypatch.setattr(blocks, sizes, usual)
    config = CONFIGS[name]
    images, (model, params) = images_for(config, count=count), model_of(config)
    restored, labels, header = decompress(model, params, compress(model, params, images))
    np.testing.assert_array_equal(restored, images)
    assert labels is None
    assert header.images == count


@pytest.mark.slow
def test_colours() -> None:
    """Compress colours with a mixture whose channels depend on each other."""
    shape = (5, 4, 3)
    config = CONFIGS["flow"]
    images, (model, params) = images_for(config, shape), model_of(config, shape)
    np.testing.assert_array_equal(decompress(model, params, compress(model, params, images))[0], images)


def test_a_modified_or_truncated_file_is_refused() -> None:
    model, params, _, content = small()
    for position in range(8, len(content), 7):
        altered = bytearray(content)
        altered[position] ^= 1 << position % 8
        with pytest.raises(UserError, match="damaged or truncated"):
            decompress(model, params, bytes(altered))
    for length in (9, 12, 40, len(content) // 2, len(content) - 1):
        with pytest.raises(UserError, match="damaged or truncated"):
            decompress(model, params, content[:length])
    for other in (b"", b"PK", b"\x00" * 100):
        with pytest.raises(UserError, match="is not a file that flax-vae compress wrote"):
            decompress(model, params, other)


def test_another_model_is_refused() -> None:
    model, params, _, content = small()
    other = jax.tree.map(lambda p: p + 1e-6, params)
    with pytest.raises(UserError, match=f"another model, mine with checksum {container.model_checksum(params)}"):
        decompress(model, other, content)


@pytest.mark.quick(2)
@pytest.mark.parametrize("config", [CONFIGS["full"], CONFIGS["iaf"], CONFIGS["pixels"]], ids=["full", "iaf", "pixels"])
@pytest.mark.parametrize("change", [1e-7, 1e-2])
def test_a_machine_that_rounds_differently_restores_no_wrong_image(config: Config, change: float) -> None:
    """Simulate another machine by a model with slightly different numbers, whose checksum is forged."""
    images, (model, params) = images_for(config, count=20), model_of(config)
    header, words = container.read(compress(model, params, images))
    other = jax.tree.map(lambda p: p * (1 + change), params)
    forged = container.write(Header(**vars(header) | {"model": container.model_checksum(other)}), words)
    restored, message = images, ""
    try:
        restored = decompress(model, other, forged)[0]
    except UserError as error:
        message = str(error)
    np.testing.assert_array_equal(restored, images)
    assert "rounds differently" in message or change < 1e-2


def test_an_inconsistent_header_is_refused() -> None:
    """Refuse wrong values even under a valid checksum."""
    header, words = container.read(small()[-1])
    valid = vars(header)
    for wrong in ({"counts": (0,)}, {"counts": (5, 5)}, {"shape": (6, 5)}, {"shape": (2**40, 1, 1)}, {"levels": 3},
                  {"filled": (-1,)}, {"counts": "x"}, {"names": ("a",)}, {"names": (1, 2, 3, 4, 5)},
                  {"counts": (2**30,)}, {"filled": (2**30,)}, {"shape": (2**15, 2**15, 3)}):  # fmt: skip
        forged = Header.__new__(Header)
        vars(forged).update(valid | wrong)
        with pytest.raises(UserError, match="damaged, or another program wrote it"):
            read_header(container.write(forged, words))
    with pytest.raises(UserError, match="ends in a word of zeros"):
        read_header(container.write(header, np.append(words, np.uint32(0))))


@pytest.mark.parametrize("words", [[], [5], [5, 6, 7], [2**32 - 1] * 1000])
def test_bits_that_hold_no_images_are_refused(words: list[int]) -> None:
    """Refuse wrong bits even under valid checksums of the file and the model."""
    model, params, _, content = small()
    forged = container.write(read_header(content), np.array(words, np.uint32))
    with pytest.raises(UserError, match="cannot be restored here"):
        decompress(model, params, forged)


def test_a_model_that_diverged_is_refused() -> None:
    model, params = model_of(CONFIGS["normal"])
    with pytest.raises(UserError, match="its training diverged"):
        compress(model, jax.tree.map(lambda leaf: leaf * np.nan, params), np.zeros((1, *SHAPE), np.uint8))


def test_images_of_another_kind_are_refused() -> None:
    model, params = model_of(CONFIGS["normal"])
    with pytest.raises(UserError, match="pixels are black or white, but these images have values between"):
        compress(model, params, np.full((1, *SHAPE), 7, np.uint8))
    with pytest.raises(UserError, match="There are no images"):
        compress(model, params, np.zeros((0, *SHAPE), np.uint8))
    model, params = model_of(config(likelihood="per_pixel_normal"))
    with pytest.raises(UserError, match="Only a model with discrete pixels"):
        compress(model, params, np.zeros((1, *SHAPE), np.uint8))
