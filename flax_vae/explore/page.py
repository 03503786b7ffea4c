"""A model and some test images as one HTML file, in which its latent space can be explored.

The file needs no network: styles, scripts, parameters and images are in it.
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
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from flax_vae.batches import Batch, batch_size_of, take
from flax_vae.explore.compiler.program import ENGINE, halved, program
from flax_vae.explore.functions import Functions, graphs
from flax_vae.explore.planes import DEPTH, Axes, Posteriors, density, dimensions, pairs, posteriors, principal_axes
from flax_vae.explore.planes import shades as shades_of
from flax_vae.models.vae import Params
from flax_vae.system.errors import UserError

_WEB = Path(__file__).parent / "web"
_NAMES = ("latents", "images", "state", "plane", "drawing", "panels", "page")
_SCRIPTS = (ENGINE, *(_WEB / f"{name}.js" for name in _NAMES))
SHOWN, FEWEST = 1500, 100  # test images in the page
_SPRITE_BYTES = 1_500_000  # of those images, about
MOST_POSTERIORS = 10_000  # in the aggregated posterior
_MOST_NUMBERS = 100_000_000  # that these may be
_SHADED = 12  # most active dimensions, whose pairs have a density
_FINE, _COARSE = 96, 64  # cells along an axis of a density: of a single one, and of several


@dataclass(frozen=True)
class About:
    """What the head of the page says.

    Attributes:
        title: the name of the model.
        summary: a sentence.
        facts: names and what they are.
        version: of the package.
    """

    title: str
    summary: str
    facts: Mapping[str, str]
    version: str


def page(
    model: nn.Module,
    params: Params,
    images: Batch,
    labels: Int[np.ndarray, " n"] | None,
    class_names: Sequence[str],
    about: About,
) -> str:
    """The page of a model.

    Args:
        model, params: the model; parameters are rounded to what float16 holds.
        images: uint8 test images "n h w c"; of a conditional model, with their labels as one-hot vectors.
        labels: their classes, by which they are coloured.
        class_names: of these.
        about: what is said of the model.

    Raises:
        UserError: a model without a latent vector, one that computes what the engine cannot, or one that diverged.
    """
    params, conditional = halved(params), isinstance(images, tuple)
    context_dim = images[1].shape[1] if isinstance(images, tuple) else 0
    some = np.random.default_rng(0).permutation(batch_size_of(images))
    h, w, c = (images[0] if isinstance(images, tuple) else images).shape[1:]
    made = program(graphs(model, params, (h, w, c), context_dim))
    size, noise = Functions(model, params).sizes(*(jnp.zeros((1, context_dim)),) * conditional)
    some = some[: min(MOST_POSTERIORS, max(SHOWN, _MOST_NUMBERS // size**2))]
    batch = take(images, some)
    pixels = batch[0] if isinstance(batch, tuple) else batch
    shown = pixels[: _number(pixels)]
    q = posteriors(model, params, batch)
    if not (np.isfinite(q.centres).all() and np.isfinite(q.scales).all()):
        raise UserError("explore: the posteriors of test images are not finite: the training diverged.")
    latents, shading = latent_space(q, len(shown))
    content = {
        "shape": [h, w, c],
        "classes": list(class_names) if labels is not None else [],
        "labels": [] if labels is None else labels[some[: len(shown)]].tolist(),
        "context": context_dim,
        "noise": noise,
        "latents": latents,
        "program": made | {"weights": packed(base64.b64decode(made["weights"]))},
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


def latent_space(q: Posteriors, shown: int) -> tuple[dict[str, Any], UInt8[np.ndarray, "planes s s"]]:
    """What a page knows of the latent space, as JSON: points, axes, planes; and the shades of the planes."""
    size = q.centres.shape[1]
    every = [dimensions(q, shown), *([principal_axes(q, shown)] if size > 2 else [])]
    planes = [(number, pair) for number, axes in enumerate(every) for pair in pairs(axes, _SHADED)]
    cells = _FINE if len(planes) == 1 else _COARSE
    found = [shades_of(density(q, every[number], pair, cells)) for number, pair in planes]
    halves = q.centres[:shown].astype("<f2")
    described = {
        "size": size,
        "points": {"table": [[halves.size, 2]], "weights": base64.b64encode(halves.tobytes()).decode()},
        "axes": [_described(axes) for axes in every],
        "planes": [
            {"axes": number, "pair": pair, "peak": _short(peak)}
            for (number, pair), (_, peak) in zip(planes, found, strict=True)
        ],
        "cells": cells,
        "depth": DEPTH,
    }
    return described, np.stack([shade for shade, _ in found])


def _described(axes: Axes) -> dict[str, Any]:
    names = ("origin", "middle", "reach", "mean", "deviation", "variance")
    numbers = {name: _short(getattr(axes, name)) for name in names}
    directions = _short(axes.directions) if axes.name == "principal" else None
    return {"name": axes.name, "order": axes.order.tolist(), "directions": directions} | numbers


def _short(numbers: Any) -> Any:
    """Floats of five digits."""
    if np.ndim(numbers):
        return [_short(each) for each in numbers]
    return float(f"{float(numbers):.5g}")


def embedded(content: Any) -> str:
    """JSON that no text in it can end the script element of."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def packed(numbers: bytes) -> str:
    """Floats of two or four bytes for a page: all first bytes of two, then all second, gzip, base64.

    Signs and exponents vary little, and are found more alike side by side: a sixth is saved.
    """
    planes = np.frombuffer(numbers, np.uint8).reshape(-1, 2).T.tobytes()
    return base64.b64encode(gzip.compress(planes, mtime=0)).decode()


def png(images: UInt8[np.ndarray, "n h w c"]) -> str:
    """Images in rows, as many as one has images, as a PNG in a data URI; channels are colours if three, else tiles."""
    n, h, w, c = images.shape
    if c != 3:
        images, h, c = images.transpose(0, 3, 1, 2).reshape(n, c * h, w, 1), c * h, 1
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    tiles = np.zeros((rows * columns, h, w, c), np.uint8)
    tiles[:n] = images
    pixels = tiles.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)
    file = io.BytesIO()
    Image.fromarray(pixels if c == 3 else pixels[..., 0]).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _number(images: UInt8[np.ndarray, "n h w c"]) -> int:
    """How many images make a sprite of the size that is wanted."""
    some = images[:FEWEST]
    return min(len(images), SHOWN, max(FEWEST, _SPRITE_BYTES * len(some) // len(png(some))))
