"""Pictures that consist of images.

Images are floats in [0, 1] or uint8. Those with one channel are drawn in grey, those with three in colour; for any
other number, the first channel is drawn in grey.
"""

import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from flax_vae.plots.style import DPI, GREY, INK, Axes, Figure, FilePath, add_heading, latent_name, shown_latents
from flax_vae.system.files import write_atomically

Images = UInt8[Array | np.ndarray, "n h w c"] | Float[Array | np.ndarray, "n h w c"]
ImageTable = UInt8[Array | np.ndarray, "rows columns h w c"] | Float[Array | np.ndarray, "rows columns h w c"]
Pixels = UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]
WIDEST = 1920  # pixels of a magnified mosaic along its longer side
TILE = 168  # pixels of a magnified image along its longer side


def save_image_grid(path: FilePath, images: Images, columns: int, padding: int = 1) -> None:
    """Write a mosaic of images "n h w c" without text, row by row; the same images give the same bytes.

    Small images are magnified by an integer factor. `padding` is the white gap between images, in their pixels.
    """
    mosaic = Image.fromarray(make_mosaic(images, columns, padding))
    write_atomically(path, lambda part: mosaic.save(part, format="PNG"))


def plot_reconstructions(originals: Images, reconstructions: Images, title: str) -> Figure:
    """Draw originals "n h w c" above their reconstructions "n h w c", ten pairs per row."""
    upper, lower = to_uint8(originals), to_uint8(reconstructions)
    pairs = np.concatenate([upper, np.full_like(upper[:, :1], 255), lower], axis=1)
    ax = draw_mosaic(pairs, columns=10, padding=3, left=330, top=110)
    rows = np.arange(-(-len(pairs) // 10))
    ax.set_yticks(np.stack([rows + 0.25, rows + 0.75], 1).ravel(), ["original", "reconstruction"] * len(rows))
    return add_heading(ax, title)


def plot_samples(images: Images) -> Figure:
    """Draw samples "n h w c", ten per row."""
    return add_heading(draw_mosaic(images, columns=10, padding=2), "Samples", "decoded from draws of the prior")


def plot_rows(images: ImageTable, names: list[str], title: str, note: str) -> Figure:
    """Draw images "rows n h w c", with a name beside each row."""
    ax = draw_mosaic(images.reshape(-1, *images.shape[2:]), images.shape[1], padding=2, left=340, top=140)
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    return add_heading(ax, title, note)


def plot_latent_grid(
    images: ImageTable, extent: float, plane: tuple[int, ...], latent_dim: int, label: str = ""
) -> Figure:
    """Draw the decoded images of a plane of the latent space, or of a line if there is one row.

    Args:
        images: images "rows columns h w c". `images[i, j]` has the i-th of `rows` equidistant values in [-extent,
            extent] for the plane's second latent, which increases upwards in the picture, and the j-th of `columns` for
            its first.
        extent: half the side of the plane.
        plane: the latents of the plane.
        latent_dim: number of all latents.
        label: class of the images, for a conditional model.
    """
    rows, columns = images.shape[:2]
    flat = images[::-1].reshape(-1, *images.shape[2:])
    ax = draw_mosaic(flat, columns, padding=0, left=190 if rows > 1 else 40, bottom=150)
    values = [f"{value:g}".replace("-", "\N{MINUS SIGN}") for value in np.linspace(-extent, extent, 5)]
    ax.set_xticks(np.linspace(0.5, columns - 0.5, 5), values)  # a tick marks the centre of an image
    ax.set_xlabel(latent_name(plane[0]), fontsize=11)
    if rows > 1:
        ax.set_yticks(np.linspace(rows - 0.5, 0.5, 5), values)
        ax.set_ylabel(latent_name(plane[1]), fontsize=11, rotation=0)
    ax.tick_params(length=3)
    note = shown_latents(plane, latent_dim) + ("; all others at 0" if latent_dim > len(plane) else "")
    note += f"; class {label}" if label else ""
    return add_heading(ax, f"The latent {'plane' if rows > 1 else 'line'}, decoded", note)


def plot_extremes(images: Images, log_likelihoods: Float[np.ndarray, " n"], quantity: str = "log p(x)") -> Figure:
    """Draw the most likely images above the least likely ones.

    Args:
        images: images "n h w c", of which the first half are the most likely.
        log_likelihoods: their log-likelihoods "n", in nats.
        quantity: name of the log-likelihoods.
    """
    half = len(images) // 2
    ax = draw_mosaic(images, columns=half, padding=3, left=260, top=140)
    ax.set_yticks([0.5, 1.5], ["most likely", "least likely"])
    most, least = (f"{part.mean():,.0f}" for part in (log_likelihoods[:half], log_likelihoods[half:]))
    note = f"{quantity}: {most} and {least} nats on average"
    return add_heading(ax, "Most and least likely test images", note)


def to_uint8(images: Images) -> UInt8[np.ndarray, "n h w channels"]:
    """Convert images "n h w c" to uint8, with three channels if they have three, else with the first only."""
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.nan_to_num(pixels.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
    return pixels if pixels.shape[-1] == 3 else pixels[..., :1]


def make_mosaic(images: Images, columns: int, padding: int) -> Pixels:
    """Tile images "n h w c" row by row on white, and magnify them by an integer factor."""
    if not len(images):
        raise ValueError("no images to draw")
    mosaic = tile(to_uint8(images), min(columns, len(images)), padding, 255)
    scale = max(1, min(WIDEST // max(mosaic.shape), TILE // images.shape[2]))
    return mosaic.repeat(scale, 0).repeat(scale, 1)


def tile(images: UInt8[np.ndarray, "n h w c"], columns: int, padding: int, fill: int) -> Pixels:
    """Tile images "n h w c" row by row, in colour if they have three channels, else in one channel."""
    n, h, w, c = images.shape
    rows, high, wide = -(-n // columns), h + padding, w + padding
    tiles = np.pad(images, ((0, rows * columns - n), (0, padding), (0, padding), (0, 0)), constant_values=fill)
    mosaic = tiles.reshape(rows, columns, high, wide, c).swapaxes(1, 2).reshape(rows * high, columns * wide, c)
    mosaic = mosaic[: rows * high - padding, : columns * wide - padding]
    return mosaic if c == 3 else mosaic[..., 0]


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
