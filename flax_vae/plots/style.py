"""Building blocks of pictures.

Images are floats in [0, 1] or uint8. One channel is drawn in grey, three in colour; of any other number only the first
is drawn, in grey. Matplotlib is imported inside functions, so that `import flax_vae` stays light, and used through its
objects, so that it needs no display and changes no global state.
"""

import os
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from flax_vae.system.files import write_atomically

Axes = Any  # of Matplotlib, which is imported later
FilePath = str | os.PathLike[str]
Images = UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]
ImageTable = UInt8[np.ndarray, "rows columns h w c"] | Float[np.ndarray, "rows columns h w c"]
Pixels = UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]
DPI = 256  # a power of two: pixels / DPI * DPI is exact, so no row of pixels is lost to rounding
WIDEST = 1920  # pixels of a magnified mosaic along its longer side
TILE = 168  # pixels of a magnified image along its longer side
INK, GREY, FAINT = "#222222", "#6b6b6b", "#e8e8e8"
SETS = {"train": "#4c78a8", "validation": "#e4572e", "test": "#e4572e"}


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Convert images "n h w c" to uint8, with three channels if they have three, else with the first alone."""
    if images.dtype != np.uint8:
        images = np.rint(np.nan_to_num(images.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
    return images if images.shape[-1] == 3 else images[..., :1]


def make_mosaic(images: Images, columns: int, padding: int) -> Pixels:
    """Tile images "n h w c" row by row on white, and magnify them by an integer factor."""
    if not len(images):
        raise ValueError("no images to draw")
    n, h, w, c = (images := to_uint8(images)).shape
    columns = min(columns, n)
    rows, high, wide = -(-n // columns), h + padding, w + padding
    tiles = np.full((rows * columns, high, wide, c), 255, np.uint8)
    tiles[:n, :h, :w] = images
    mosaic = tiles.reshape(rows, columns, high, wide, c).swapaxes(1, 2).reshape(rows * high, columns * wide, c)
    mosaic = mosaic[: rows * high - padding, : columns * wide - padding]
    scale = max(1, min(WIDEST // max(mosaic.shape), TILE // w))
    return (mosaic if c == 3 else mosaic[..., 0]).repeat(scale, 0).repeat(scale, 1)


def draw_mosaic(images: Images, columns: int, padding: int, left: int = 40, bottom: int = 40, top: int = 160) -> Axes:
    """Draw a mosaic pixel for pixel, with margins in pixels, on axes that count images from the upper left."""
    from matplotlib.figure import Figure

    pixels = make_mosaic(images, columns, padding)
    if max(pixels.shape) > WIDEST:
        pixels = np.asarray(Image.fromarray(pixels).reduce(-(-max(pixels.shape) // WIDEST)))
    height, width = pixels.shape[:2]
    across, up = max(left + width + 40, 1500), bottom + height + top
    figure = Figure(figsize=(across / DPI, up / DPI), dpi=DPI, facecolor="white")
    ax = figure.add_axes((left / across, bottom / up, width / across, height / up))
    columns = min(columns, len(images))
    box = (0, columns, -(-len(images) // columns), 0)
    colours = np.asarray(Image.fromarray(pixels).convert("RGB"))  # colour maps round some values by one
    ax.imshow(colours, interpolation="nearest", aspect="auto", extent=box)
    ax.spines[:].set_visible(False)
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0, labelsize=9, labelcolor=INK, color=GREY)
    return ax


def make_panels(layout: list[Any], width: float, height: float, **options: Any) -> dict[str, Axes]:
    """Return axes by name, in a figure of `width` x `height` inches, on a faint grid without a box."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    spacing = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=spacing)
    panels = figure.subplot_mosaic(layout, **options)
    for ax in panels.values():
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(GREY)
        ax.tick_params(labelsize=9, labelcolor=INK, color=GREY, length=3)
        ax.grid(color=FAINT, linewidth=0.8)
        ax.set_axisbelow(True)
    return panels


def add_heading(ax: Axes, title: str, note: str) -> None:
    """Write a title at the upper left, and a grey note below it."""
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=22 if note else 8)
    ax.annotate(note, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=9, color=GREY, in_layout=False)


def latent_name(index: int) -> str:
    """Return the name of a latent as in papers, counted from one: z₁."""
    return f"z{index + 1}".translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def shown_latents(plane: tuple[int, ...], latent_dim: int) -> str:
    """Describe the latents that a picture shows, and the reason if there are more."""
    names = " and ".join(map(latent_name, plane))
    which = f", the {'two' if len(plane) == 2 else 'one'} of {latent_dim} with the highest activity"
    return names + which if latent_dim > len(plane) else names


def save_figure(path: FilePath, ax: Axes, title: str, note: str = "") -> None:
    """Set the title of these axes, and write the figure without metadata, so that equal figures give equal files."""
    add_heading(ax, title, note)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # boxes replace scripts that the font lacks
        write_atomically(path, lambda part: ax.figure.savefig(part, format="png", metadata={"Software": None}))
