"""A model and test images as one HTML file for exploring the latent space.

The file needs no network: it contains styles, scripts, parameters and images.
"""

import base64
import gzip
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from flax_vae.batches import BatchLike, batch_size_of, take, to_batch
from flax_vae.explore.compiler.packing import ENGINE, halved, program
from flax_vae.explore.functions import graphs
from flax_vae.explore.planes import latent_space, posteriors
from flax_vae.models.binding import Params
from flax_vae.plots.images import tile
from flax_vae.system.settings import by_default

_WEB = Path(__file__).parent / "web"
_NAMES = ("latents", "images", "state", "plane", "drawing", "panels", "page")
_SCRIPTS = (ENGINE, *(_WEB / f"{name}.js" for name in _NAMES))
_MOST_SHOWN, _FEWEST_SHOWN = 1500, 100  # test images in the page
_SPRITE_BYTES = 1_500_000  # approximate size of these images
_MOST_POSTERIORS = 10_000  # in the aggregated posterior
_MOST_NUMBERS = 100_000_000  # in the scales of these posteriors


@dataclass(frozen=True)
class About:
    """The texts at the head and foot of the page.

    Attributes:
        title: the name of the model.
        summary: a sentence.
        facts: further properties by name.
        version: the version of the package.
    """

    title: str
    summary: str
    facts: Mapping[str, str]
    version: str


@by_default
def page(
    model: nn.Module,
    params: Params,
    images: BatchLike,
    labels: Int[np.ndarray, " n"] | None,
    class_names: Sequence[str],
    about: About,
) -> str:
    """Return the HTML page of a model.

    Args:
        model, params: the model; parameters are rounded to float16.
        images: uint8 test images "n h w c"; for a conditional model with one-hot labels as contexts.
        labels: the classes of the images, shown as colours.
        class_names: the names of the classes.
        about: the texts about the model.

    Raises:
        UserError: the model has no latent vector, computes something that the engine does not support, or diverged.
    """
    params, images = halved(params), to_batch(images)
    h, w, c = images.x.shape[1:]
    context_dim = 0 if images.context is None else images.context.shape[1]
    functions = program(graphs(model, params, (h, w, c), context_dim))
    size, noise_size = (functions["graphs"][name]["inputs"][0][1][1] for name in ("decode", "sample"))
    chosen = _choose_images(batch_size_of(images), size)
    batch = take(images, chosen)
    shown = batch.x[: _sprite_count(batch.x)]
    latents, shading = latent_space(posteriors(model, params, batch), len(shown))
    content = {
        "shape": [h, w, c],
        "classes": list(class_names) if labels is not None else [],
        "labels": [] if labels is None else labels[chosen[: len(shown)]].tolist(),
        "context": context_dim,
        "noise": noise_size,
        "latents": latents,
        "program": functions | {"weights": packed(base64.b64decode(functions["weights"]))},
    }
    return Template((_WEB / "page.html").read_text()).substitute(
        title=html.escape(about.title),
        summary=html.escape(about.summary),
        facts="".join(f"<div><dt>{html.escape(n)}</dt><dd>{html.escape(v)}</dd></div>" for n, v in about.facts.items()),
        version=html.escape(about.version),
        style=(_WEB / "page.css").read_text(),
        scripts="</script>\n<script>\n".join(path.read_text() for path in _SCRIPTS),
        content=embedded(content),
        shading=png(shading[..., None]),
        sprite=png(shown),
    )


def _choose_images(count: int, latent_dim: int) -> Int[np.ndarray, " n"]:
    """Return the indices of the images whose posteriors the page holds, in random order."""
    number = min(_MOST_POSTERIORS, max(_MOST_SHOWN, _MOST_NUMBERS // latent_dim**2))
    return np.random.default_rng(0).permutation(count)[:number]


def embedded(content: Any) -> str:
    """Return JSON that is safe inside a script element."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def packed(numbers: bytes) -> str:
    """Pack floats of two or four bytes: all even bytes, then all odd bytes, compressed by gzip, as base64.

    Signs and exponents vary little and compress better when grouped: this saves a sixth.
    """
    planes = np.frombuffer(numbers, np.uint8).reshape(-1, 2).T.tobytes()
    return base64.b64encode(gzip.compress(planes, mtime=0)).decode()


def png(images: UInt8[np.ndarray, "n h w c"]) -> str:
    """Return a square grid of images as a PNG in a data URI; three channels are colours, others are tiles."""
    n, h, w, c = images.shape
    if c != 3:
        images = images.transpose(0, 3, 1, 2).reshape(n, c * h, w, 1)
    file = io.BytesIO()
    Image.fromarray(tile(images, int(np.ceil(np.sqrt(n))), 0, 0)).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _sprite_count(images: UInt8[np.ndarray, "n h w c"]) -> int:
    """Return the number of images that fill a sprite of the target size."""
    first = images[:_FEWEST_SHOWN]
    return min(len(images), _MOST_SHOWN, max(_FEWEST_SHOWN, _SPRITE_BYTES * len(first) // len(png(first))))
