"""Lossless compression of the Fashion-MNIST test images: trained models beside general encoders, each way.

    pip install '.[bench]'
    python benchmarks/lossless.py
    python benchmarks/lossless.py --models pretrained:grey runs/mine

Grey images, and those that a model of binary pixels was tested on. Encoders of images get one image at a time, and all
of them as one mosaic; general ones get all pixels at once. Bits per dimension are of whole files; those of a model also
without the random bits that the latents of its first images took. Compilation is timed by itself: a first run of 300
images. Prints tables and writes lossless.json.
"""

import bz2
import io
import json
import lzma
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pillow_jxl  # noqa: F401  # makes Pillow read and write JPEG XL
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from flax_vae import Run, bind, load_run, use_machine
from flax_vae.compression import compress, decompress, read_header
from flax_vae.data import one_hot
from flax_vae.objectives import ELBO
from flax_vae.runs.run import run_data

HERE = Path(__file__).parent
Row = dict[str, Any]


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = ("pretrained:grey", "pretrained:mlp", "pretrained:mlp_vamp")
    num_images: int = 10_000


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and its seconds."""
    began = time.perf_counter()
    found = function()
    return found, time.perf_counter() - began


def row(images: np.ndarray, size: int, seconds: float, back: float) -> Row:
    """Figures of an encoder."""
    megabytes = images.nbytes / 1e6
    return {"bits_per_dim": 8 * size / images.size, "mb_per_s": megabytes / seconds, "mb_per_s_back": megabytes / back}


def of_bytes(images: np.ndarray, encode: Callable[[bytes], bytes], decode: Callable[[bytes], bytes]) -> Row:
    """All pixels as one stream; binary ones eight to a byte."""
    binary = np.isin(images, (0, 255)).all()
    stream = np.packbits(images > 0).tobytes() if binary else images.tobytes()
    content, seconds = timed(lambda: encode(stream))
    restored, back = timed(lambda: decode(content))
    assert restored == stream
    return row(images, len(content), seconds, back)


def of_pictures(images: np.ndarray, pictures: list[Image.Image], kind: str, **options: Any) -> Row:
    """Files of one format."""

    def write(picture: Image.Image) -> bytes:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        return file.getvalue()

    files, seconds = timed(lambda: [write(picture) for picture in pictures])
    restored, back = timed(lambda: [np.asarray(Image.open(io.BytesIO(file)).convert("L")) for file in files])
    for picture, found in zip(pictures, restored, strict=True):
        np.testing.assert_array_equal(found, np.asarray(picture.convert("L")))
    return row(images, sum(map(len, files)), seconds, back)


def encoders(images: np.ndarray) -> dict[str, Row]:
    """Figures of the encoders that are no models."""
    binary = np.isin(images, (0, 255)).all()
    found = {
        "zlib": of_bytes(images, lambda stream: zlib.compress(stream, 9), zlib.decompress),
        "bz2": of_bytes(images, bz2.compress, bz2.decompress),
        "xz": of_bytes(images, lambda stream: lzma.compress(stream, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
    }
    side = int(len(images) ** 0.5)
    tiles = images[: side**2, ..., 0].reshape(side, side, *images.shape[1:3]).swapaxes(1, 2)
    mosaic = tiles.reshape(side * images.shape[1], -1)
    formats: dict[str, dict[str, Any]] = {
        "PNG": {"optimize": True},
        "WebP": {"lossless": True, "quality": 100, "method": 6},
        "JXL": {"lossless": True, "effort": 9},
    }
    for kind, options in formats.items():
        one_bit = binary and kind == "PNG"
        shown = [Image.fromarray(each).convert("1") if one_bit else Image.fromarray(each) for each in images[..., 0]]
        found[f"{kind}, one by one"] = of_pictures(images, shown, kind, **options)
        whole = Image.fromarray(mosaic).convert("1") if one_bit else Image.fromarray(mosaic)
        found[f"{kind}, mosaic"] = of_pictures(images[: side**2], [whole], kind, **options)
    return found


def of_model(run: Run, images: np.ndarray, labels: np.ndarray | None) -> Row:
    """Figures of a model; a conditional one keeps the labels too."""
    classes = len(run.class_names)
    few_labels = None if labels is None else labels[:300]
    few, compiling = timed(lambda: compress(run.model, run.params, images[:300], few_labels, classes))
    _, compiling_back = timed(lambda: decompress(run.model, run.params, few))
    content, seconds = timed(lambda: compress(run.model, run.params, images, labels, classes))
    (restored, found_labels, _), back = timed(lambda: decompress(run.model, run.params, content))
    np.testing.assert_array_equal(restored, images)
    np.testing.assert_array_equal(found_labels, labels)
    header = read_header(content)
    net = header.bits_per_dim(8 * len(content) - header.initial_bits)
    return row(images, len(content), seconds, back) | {
        "net_bits_per_dim": net,
        "negative_elbo": negative_elbo(run, images, None if labels is None else one_hot(labels, classes)),
        "initial_bits": header.initial_bits,
        "images_per_s": len(images) / seconds,
        "images_per_s_back": len(images) / back,
        "first_300_s": compiling,
        "first_300_s_back": compiling_back,
    }


def negative_elbo(run: Run, images: np.ndarray, contexts: np.ndarray | None, draws: int = 4) -> float:
    """-ELBO in bits per dimension, of some draws for each image; with contexts, also the bits that say which."""

    @jax.jit
    def loss(x: Any, context: Any, key: Any) -> Any:
        return ELBO()(bind(run.model, run.params, context), x, key, jnp.zeros(()))[0].sum()

    total = 0.0
    for draw in range(draws):
        for begin in range(0, len(images), 100):
            some, key = slice(begin, begin + 100), jax.random.fold_in(jax.random.key(draw), begin)
            context = None if contexts is None else contexts[some]
            total += float(loss(images[some].astype(np.float32) / 255, context, key)) / draws
    if contexts is not None:
        total += len(images) * np.log(contexts.shape[1])
    return total / images.size / np.log(2)


def show(title: str, rows: dict[str, Row]) -> None:
    """A table, the shortest first."""
    table = Table("encoder", "bits/dim", "net", "-ELBO", "MB/s", "back", "images/s", "back", title=title)
    for name, each in sorted(rows.items(), key=lambda item: item[1]["bits_per_dim"]):
        numbers = [each["bits_per_dim"], each.get("net_bits_per_dim"), each.get("negative_elbo")]
        speeds = [each["mb_per_s"], each["mb_per_s_back"], each.get("images_per_s"), each.get("images_per_s_back")]
        cells = ["" if number is None else f"{number:.3f}" for number in numbers]
        table.add_row(name, *cells, *("" if speed is None else f"{speed:,.1f}" for speed in speeds))
    Console().print(table)


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    use_machine()
    file = HERE / "lossless.json"
    found: dict[str, dict[str, Row]] = json.loads(file.read_text()) if file.exists() else {}
    for name in arguments.models:
        run = load_run(name)
        test = run_data(run).test
        images = test.x[: arguments.num_images]
        labels = test.labels[: arguments.num_images] if run.class_names and test.labels is not None else None
        kind = "binary" if np.isin(images, (0, 255)).all() else "grey"
        if kind not in found:
            found[kind] = encoders(images)
        found[kind][Path(name).name] = of_model(run, images, labels)
        show(f"{len(images):,} {kind} images", found[kind])
        file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
