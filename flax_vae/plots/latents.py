"""Pictures of the latent space."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer

from flax_vae.plots.style import INK, Axes, Figure, add_heading, latent_name, make_panels, shown_latents


def plot_latent_map(
    means: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, " n"] | None,
    class_names: Sequence[str] | None,
    plane: tuple[int, ...],
    latent_dim: int,
) -> Figure:
    """Draw posterior means "n d" of the test set in the plane of two latents, or along one, coloured by class "n"."""
    import matplotlib

    note = f"{len(means):,} images"
    classes, index = np.unique(np.zeros(len(means), int) if labels is None else labels, return_inverse=True)
    if len(classes) > 20:  # too many to distinguish by colour
        note += f" of {len(classes)} classes"
        classes, index = classes[:1], np.zeros_like(index)
    names = [class_names[i] if class_names and 0 <= i < len(class_names) else str(i) for i in classes]
    # Class names may hold a dollar sign, or be wider than a legend.
    names = [(name if len(name) <= 24 else name[:23] + "…").replace("$", r"\$") for name in names]
    colours = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"](np.arange(len(names)))
    ax = make_panels([["map"]], 6.8, 5.2)["map"]
    ax.set_xlabel(latent_name(plane[0]), fontsize=11)
    if len(plane) == 1:
        _draw_ridges(ax, means[:, plane[0]], index, names, colours)
    else:
        _draw_cloud(ax, means[:, list(plane)], index, names, colours)
        ax.set_ylabel(latent_name(plane[1]), fontsize=11, rotation=0, labelpad=10)
    if latent_dim > len(plane):
        note += f" · {shown_latents(plane, latent_dim)}"
    return add_heading(ax, "Posterior means of the test set", note)


def _draw_cloud(ax: Axes, points: np.ndarray, index: np.ndarray, names: list[str], colours: np.ndarray) -> None:
    """Scatter points "n 2"; `index` "n" is the class of each, for the names "k" and the colours "k 4"."""
    from matplotlib.lines import Line2D

    # In a random order, so that no class hides another.
    order = np.random.default_rng(0).permutation(len(points))
    size = np.clip(4e4 / max(len(points), 1), 4, 25)
    ax.scatter(points[order, 0], points[order, 1], s=size, c=colours[index[order]], alpha=0.6, linewidths=0)
    ax.set_aspect("equal", adjustable="datalim")
    if len(names) > 1:
        dots = [Line2D([], [], marker="o", linestyle="", markersize=6, color=colour) for colour in colours]
        ax.figure.legend(dots, names, loc="outside right center", frameon=False, labelcolor=INK, handletextpad=0.2)


def _draw_ridges(ax: Axes, values: np.ndarray, index: np.ndarray, names: list[str], colours: np.ndarray) -> None:
    """Draw a histogram of the values "n" for each class, one below the other."""
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
