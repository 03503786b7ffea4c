"""Pictures: arrays in, one PNG file out.

Images are floats in [0, 1] or uint8. One channel is drawn in grey, three in colour, of any other number the first in
grey. Matplotlib is imported where a figure is drawn, so that `import flax_vae` stays light, and used through its
objects, so that no display is needed and no global state changes.
"""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

Axes = Any  # matplotlib's, which is not imported up here
FilePath = str | os.PathLike[str]
Images = UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]
ImageTable = UInt8[np.ndarray, "rows columns h w c"] | Float[np.ndarray, "rows columns h w c"]
Pixels = UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]

DPI = 256  # a power of two: pixels / DPI * DPI is exact, so no row of pixels is lost to rounding
WIDEST = 1920  # pixels of a magnified mosaic along its longer side
TILE = 168  # pixels of a magnified image along its longer side
INK, GREY, FAINT = "#222222", "#6b6b6b", "#e8e8e8"
SETS = {"train": "#4c78a8", "test": "#e4572e"}


def save_image_grid(path: FilePath, images: Images, columns: int, padding: int = 1) -> None:
    """Write a bare mosaic of the images "n h w c", row by row; the same images give the same bytes.

    Small images are magnified by a whole number; `padding` is the white gap between two of them in their own pixels.
    """
    mosaic = Image.fromarray(_mosaic(images, columns, padding))
    _write(path, lambda part: mosaic.save(part, format="PNG"))


def plot_reconstructions(path: FilePath, originals: Images, reconstructions: Images, title: str) -> None:
    """Draw each of the originals "n h w c" above its reconstruction "n h w c", ten pairs in a row."""
    upper, lower = _to_uint8(originals), _to_uint8(reconstructions)
    pairs = np.concatenate([upper, np.full_like(upper[:, :1], 255), lower], axis=1)
    ax = _picture(pairs, columns=10, padding=3, left=330, top=110)
    rows = np.arange(-(-len(pairs) // 10))
    ax.set_yticks(np.stack([rows + 0.25, rows + 0.75], 1).ravel(), ["original", "reconstruction"] * len(rows))
    _save(path, ax, title)


def plot_samples(path: FilePath, images: Images) -> None:
    """Draw samples "n h w c" of the prior, ten in a row."""
    _save(path, _picture(images, columns=10, padding=2), "Samples", "decoded from draws of the prior")


def plot_latent_grid(
    path: FilePath, images: ImageTable, extent: float, plane: tuple[int, ...], latent_dim: int, given: str = ""
) -> None:
    """Draw the decoded images "rows columns h w c" of a plane of the latent space, or of a line where rows is 1.

    `images[i, j]` belongs to the i-th of `rows` equidistant values in [-extent, extent] of the plane's second latent
    and to the j-th of `columns` of its first: both grow with the index, and in the picture the second grows upwards.
    `given` is the label that a conditional model was given.
    """
    rows, columns = images.shape[:2]
    flat = images[::-1].reshape(-1, *images.shape[2:])
    ax = _picture(flat, columns, padding=0, left=190 if rows > 1 else 40, bottom=150)
    values = [f"{value:g}".replace("-", "\N{MINUS SIGN}") for value in np.linspace(-extent, extent, 5)]
    ax.set_xticks(np.linspace(0.5, columns - 0.5, 5), values)  # a value belongs to the centre of its image
    ax.set_xlabel(_latent(plane[0]), fontsize=11)
    if rows > 1:
        ax.set_yticks(np.linspace(rows - 0.5, 0.5, 5), values)
        ax.set_ylabel(_latent(plane[1]), fontsize=11, rotation=0)
    ax.tick_params(length=3)
    note = _shown(plane, latent_dim) + ("; the others at 0" if latent_dim > len(plane) else "")
    note += f"; given {given}" if given else ""
    _save(path, ax, f"The latent {'plane' if rows > 1 else 'line'}, decoded", note)


def plot_latent_map(
    path: FilePath,
    means: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, " n"] | None,
    class_names: Sequence[str] | None,
    plane: tuple[int, ...],
    latent_dim: int,
) -> None:
    """Draw the test set's posterior means "n d" in the plane of two latents, or along one, coloured by class "n"."""
    import matplotlib

    note = f"{len(means):,} images"
    classes, index = np.unique(np.zeros(len(means), int) if labels is None else labels, return_inverse=True)
    if len(classes) > 20:  # too many to tell apart by colour
        note += f" of {len(classes)} classes"
        classes, index = classes[:1], np.zeros_like(index)
    names = [class_names[i] if class_names and 0 <= i < len(class_names) else str(i) for i in classes]
    # A class folder is no formula, and its name may be longer than a legend is wide.
    names = [(name if len(name) <= 24 else name[:23] + "…").replace("$", r"\$") for name in names]
    colours = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"](np.arange(len(names)))
    ax = _panels([["map"]], 6.8, 5.2)["map"]
    ax.set_xlabel(_latent(plane[0]), fontsize=11)
    if len(plane) == 1:
        _draw_ridges(ax, means[:, plane[0]], index, names, colours)
    else:
        _draw_cloud(ax, means[:, list(plane)], index, names, colours)
        ax.set_ylabel(_latent(plane[1]), fontsize=11, rotation=0, labelpad=10)
    if latent_dim > len(plane):
        note += f" · {_shown(plane, latent_dim)}"
    _save(path, ax, "Posterior means of the test set", note)


def _draw_cloud(ax: Axes, points: np.ndarray, index: np.ndarray, names: list[str], colours: np.ndarray) -> None:
    """Scatter points "n 2"; `index` "n" counts into the names "k" and the colours "k 4"."""
    from matplotlib.lines import Line2D

    # In a random order, so that no class covers another only because it comes later in the file.
    order = np.random.default_rng(0).permutation(len(points))
    size = np.clip(4e4 / max(len(points), 1), 4, 25)
    ax.scatter(points[order, 0], points[order, 1], s=size, c=colours[index[order]], alpha=0.6, linewidths=0)
    ax.set_aspect("equal", adjustable="datalim")
    if len(names) > 1:
        dots = [Line2D([], [], marker="o", linestyle="", markersize=6, color=colour) for colour in colours]
        ax.figure.legend(dots, names, loc="outside right center", frameon=False, labelcolor=INK, handletextpad=0.2)


def _draw_ridges(ax: Axes, values: np.ndarray, index: np.ndarray, names: list[str], colours: np.ndarray) -> None:
    """Draw a histogram of the values "n" for each class, one above the other."""
    edges = np.linspace(values.min() - 0.01, values.max() + 0.01, 61)  # a collapsed latent has no width
    for row, colour in enumerate(colours):
        heights = np.histogram(values[index == row], edges)[0]
        ridge = 1.5 * heights / max(heights.max(), 1) - row
        ax.stairs(ridge, edges, baseline=-row, fill=True, color=colour, alpha=0.5, zorder=2 + row)
        ax.stairs(ridge, edges, baseline=None, color=colour, linewidth=1.2, zorder=2 + row)
    ax.set_yticks(-np.arange(len(names)), names if len(names) > 1 else [""])
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)


def plot_curves(path: FilePath, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw the loss by epoch, and beside it rate and distortion where they are reported, in nats per image.

    Each of `metrics` is an object of metrics.jsonl: `epoch`, and any of `train_` and `test_` of loss, rate, distortion.
    """
    beside = [name for name in ("rate", "distortion") if any(f"{s}_{name}" in row for s in SETS for row in metrics)]
    layout = [["loss", name] for name in beside] or [["loss"]]
    panels = _panels(layout, 7.6 if beside else 5.6, 4.3, width_ratios=[1.9, 1][: len(layout[0])])
    notes = {name: _draw_curves(ax, name, metrics) for name, ax in panels.items()}
    for name in beside:
        _head(panels[name], name.capitalize(), notes[name])
    for name in beside[:-1]:
        panels[name].set_xlabel("")
    if notes["loss"]:
        panels["loss"].legend(frameon=False, loc="upper right", labelcolor=INK)
        notes["loss"] += f" nats per image after epoch {metrics[-1]['epoch']}"
    _save(path, panels["loss"], "Loss", notes["loss"])


def plot_comparison(path: FilePath, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw the test losses of runs against epochs and against seconds.

    Args:
        path: PNG file to write.
        runs: the records of each run's epochs, as in its `metrics.jsonl`.
    """
    panels = _panels([["epoch", "seconds"]], 11.0, 4.5, sharey=True)
    for name, metrics in runs.items():
        for axis, ax in panels.items():
            losses = [record["test_loss"] for record in metrics]
            ax.plot([record[axis] for record in metrics], losses, label=name, linewidth=1.6, marker="o", markersize=3.5)
            ax.set_xlabel(axis)
    panels["epoch"].locator_params(axis="x", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    panels["seconds"].legend(frameon=False, labelcolor=INK)
    _save(path, panels["epoch"], "Test loss", "nats per image")


def plot_evaluation(
    path: FilePath, bounds: Sequence[Mapping[str, Any]], dimension_rates: Sequence[float] | None, of: str = "log p(x)"
) -> None:
    """Draw the importance-weighted bound by its number of samples, and beside it the rate of each latent dimension.

    `of` says what it bounds.

    Each of `bounds` is an object of evaluation.json; the bars are two standard errors of the draws either way.
    """
    panels = _panels([["bound", "rates"]] if dimension_rates else [["bound"]], 9.0 if dimension_rates else 5.6, 4.0)
    ax, counts = panels["bound"], [row["num_samples"] for row in bounds]
    errors = [2 * row["standard_error_of_draws"] for row in bounds]
    ax.errorbar(
        counts,
        [row["log_likelihood"] for row in bounds],
        errors,
        color=SETS["test"],
        marker="o",
        markersize=4,
        capsize=3,
    )
    ax.set_xscale("log")
    ax.set_xticks(counts, [f"{count:,}" for count in counts])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("samples per image")
    if dimension_rates:
        highest = sorted(dimension_rates, reverse=True)
        panels["rates"].bar(range(1, len(highest) + 1), highest, color=SETS["train"], width=0.8)
        panels["rates"].locator_params(axis="x", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        panels["rates"].set_xlabel("latent dimensions, the highest first")
        _head(panels["rates"], "Rate by dimension", f"{sum(highest):.2f} nats per image together")
    note = f"{bounds[-1]['log_likelihood']:,.2f} nats per image, the mean of {bounds[-1]['images']:,}"
    _save(path, ax, f"Importance-weighted bound of {of}", note)


def plot_extremes(
    path: FilePath, images: Images, log_likelihoods: Float[np.ndarray, " n"], of: str = "log p(x)"
) -> None:
    """Draw the first half of the images "n h w c" as the most likely ones, the others below as the least likely.

    `of` says what the numbers "n" are.
    """
    half = len(images) // 2
    ax = _picture(images, columns=half, padding=3, left=260, top=140)
    ax.set_yticks([0.5, 1.5], ["most likely", "least likely"])
    most, least = (f"{part.mean():,.0f}" for part in (log_likelihoods[:half], log_likelihoods[half:]))
    note = f"{of}: {most} and {least} nats, the means of each row"
    _save(path, ax, "Test images that the model finds most and least likely", note)


def _draw_curves(ax: Axes, name: str, metrics: Sequence[Mapping[str, Any]]) -> str:
    """Draw `train_` and `test_` of one name, and return their latest values in words."""
    values: list[float] = []
    latest = []
    for kind, colour in SETS.items():
        reported = [(row["epoch"], row.get(f"{kind}_{name}")) for row in metrics]
        points = [(epoch, value) for epoch, value in reported if value is not None and np.isfinite(value)]
        if points:
            marker = "o" if len(points) <= 20 else None
            ax.plot(*zip(*points, strict=True), color=colour, label=kind, linewidth=1.6, marker=marker, markersize=3.5)
            values += [value for _, value in points]
            latest.append(f"{kind} {points[-1][1]:,.2f}")
    if values:
        low, lower, upper, high = np.quantile(values, [0, 0.25, 0.75, 1], method="lower")
        room = max(5 * (upper - lower), (upper - low) / 3)
        # A first epoch far above the others would flatten them: it leaves through the top and is told in words.
        if room > 0 and high > upper + 2 * room:
            ax.set_ylim(low - 0.05 * (upper + room - low), upper + room)
            text = f"↑ up to {high:,.0f}"
            ax.text(0.5, 0.96, text, transform=ax.transAxes, ha="center", va="top", color=GREY, fontsize=8)
    ax.locator_params(axis="x", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    ax.set_xlabel("epoch")
    return " · ".join(latest)


def _to_uint8(images: np.ndarray) -> np.ndarray:
    """Turn "n h w c" of [0, 1] or uint8 into uint8 "n h w 3" if there are three channels, "n h w 1" if not."""
    if images.dtype != np.uint8:
        images = np.rint(np.nan_to_num(images.astype(np.float32)).clip(0, 1) * 255).astype(np.uint8)
    return images if images.shape[-1] == 3 else images[..., :1]


def _mosaic(images: Images, columns: int, padding: int) -> Pixels:
    """Lay images "n h w c" out row by row, white where there is none, and magnify them by a whole number."""
    if not len(images):
        raise ValueError("no images to draw")
    n, h, w, c = (images := _to_uint8(images)).shape
    columns = min(columns, n)
    rows, high, wide = -(-n // columns), h + padding, w + padding
    tiles = np.full((rows * columns, high, wide, c), 255, np.uint8)
    tiles[:n, :h, :w] = images
    mosaic = tiles.reshape(rows, columns, high, wide, c).swapaxes(1, 2).reshape(rows * high, columns * wide, c)
    mosaic = mosaic[: rows * high - padding, : columns * wide - padding]
    scale = max(1, min(WIDEST // max(mosaic.shape), TILE // w))
    return (mosaic if c == 3 else mosaic[..., 0]).repeat(scale, 0).repeat(scale, 1)


def _picture(images: Images, columns: int, padding: int, left: int = 40, bottom: int = 40, top: int = 160) -> Axes:
    """Draw a mosaic pixel for pixel within margins in pixels, on axes that count images from the upper left."""
    from matplotlib.figure import Figure

    pixels = _mosaic(images, columns, padding)
    if max(pixels.shape) > WIDEST:
        pixels = np.asarray(Image.fromarray(pixels).reduce(-(-max(pixels.shape) // WIDEST)))
    height, width = pixels.shape[:2]
    across, up = max(left + width + 40, 1500), bottom + height + top
    figure = Figure(figsize=(across / DPI, up / DPI), dpi=DPI, facecolor="white")
    ax = figure.add_axes((left / across, bottom / up, width / across, height / up))
    columns = min(columns, len(images))
    box = (0, columns, -(-len(images) // columns), 0)
    colours = np.asarray(Image.fromarray(pixels).convert("RGB"))  # a colour map would be off by one here and there
    ax.imshow(colours, interpolation="nearest", aspect="auto", extent=box)
    ax.spines[:].set_visible(False)
    ax.set(xticks=[], yticks=[])
    ax.tick_params(length=0, labelsize=9, labelcolor=INK, color=GREY)
    return ax


def _panels(layout: list[Any], width: float, height: float, **options: Any) -> dict[str, Axes]:
    """Return axes by name, in a figure of so many inches, without a box and on a faint grid."""
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


def _head(ax: Axes, title: str, note: str) -> None:
    """Write a title at the upper left and a note below it in grey."""
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=22 if note else 8)
    ax.annotate(note, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=9, color=GREY, in_layout=False)


def _latent(index: int) -> str:
    """Name a latent as papers do, counting from one: z₁."""
    return f"z{index + 1}".translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _shown(plane: tuple[int, ...], latent_dim: int) -> str:
    """Say which latents a picture shows, and why these if there are more."""
    names = " and ".join(map(_latent, plane))
    which = f", the {'two' if len(plane) == 2 else 'one'} of {latent_dim} that tell images apart best"
    return names + which if latent_dim > len(plane) else names


def _save(path: FilePath, ax: Axes, title: str, note: str = "") -> None:
    """Give these axes their title and write the figure, without the version that Matplotlib would put into the file."""
    _head(ax, title, note)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a class name in a script that the font lacks becomes boxes
        _write(path, lambda part: ax.figure.savefig(part, format="png", metadata={"Software": None}))


def _write(path: FilePath, save: Callable[[Path], None]) -> None:
    """Save beside `path` and move into place, so that nobody finds half a picture."""
    part = Path(path).with_name(Path(path).name + ".part")
    try:
        save(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
