"""Pictures that consist of images."""

import numpy as np
from jaxtyping import Float
from PIL import Image

from flax_vae.plots.style import (
    FilePath,
    Images,
    ImageTable,
    draw_mosaic,
    latent_name,
    make_mosaic,
    save_figure,
    shown_latents,
    to_uint8,
)
from flax_vae.system.files import write_atomically


def save_image_grid(path: FilePath, images: Images, columns: int, padding: int = 1) -> None:
    """Write a mosaic of images "n h w c" without text, row by row; the same images give the same bytes.

    Small images are magnified by an integer factor. `padding` is the white gap between images, in their pixels.
    """
    mosaic = Image.fromarray(make_mosaic(images, columns, padding))
    write_atomically(path, lambda part: mosaic.save(part, format="PNG"))


def plot_reconstructions(path: FilePath, originals: Images, reconstructions: Images, title: str) -> None:
    """Draw originals "n h w c" above their reconstructions "n h w c", ten pairs per row."""
    upper, lower = to_uint8(originals), to_uint8(reconstructions)
    pairs = np.concatenate([upper, np.full_like(upper[:, :1], 255), lower], axis=1)
    ax = draw_mosaic(pairs, columns=10, padding=3, left=330, top=110)
    rows = np.arange(-(-len(pairs) // 10))
    ax.set_yticks(np.stack([rows + 0.25, rows + 0.75], 1).ravel(), ["original", "reconstruction"] * len(rows))
    save_figure(path, ax, title)


def plot_samples(path: FilePath, images: Images) -> None:
    """Draw samples "n h w c", ten per row."""
    save_figure(path, draw_mosaic(images, columns=10, padding=2), "Samples", "decoded from draws of the prior")


def plot_rows(path: FilePath, images: ImageTable, names: list[str], title: str, note: str) -> None:
    """Draw images "rows n h w c", with the name of each row."""
    ax = draw_mosaic(images.reshape(-1, *images.shape[2:]), images.shape[1], padding=2, left=340, top=140)
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    save_figure(path, ax, title, note)


def plot_latent_grid(
    path: FilePath, images: ImageTable, extent: float, plane: tuple[int, ...], latent_dim: int, label: str = ""
) -> None:
    """Draw the decoded images of a plane of the latent space, or of a line if there is one row.

    Args:
        path: PNG file to write.
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
    save_figure(path, ax, f"The latent {'plane' if rows > 1 else 'line'}, decoded", note)


def plot_extremes(
    path: FilePath, images: Images, log_likelihoods: Float[np.ndarray, " n"], quantity: str = "log p(x)"
) -> None:
    """Draw the most likely images above the least likely ones.

    Args:
        path: PNG file to write.
        images: images "n h w c", of which the first half are the most likely.
        log_likelihoods: their log-likelihoods "n", in nats.
        quantity: name of the log-likelihoods.
    """
    half = len(images) // 2
    ax = draw_mosaic(images, columns=half, padding=3, left=260, top=140)
    ax.set_yticks([0.5, 1.5], ["most likely", "least likely"])
    most, least = (f"{part.mean():,.0f}" for part in (log_likelihoods[:half], log_likelihoods[half:]))
    note = f"{quantity}: {most} and {least} nats on average"
    save_figure(path, ax, "Most and least likely test images", note)
