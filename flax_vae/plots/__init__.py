"""Pictures: functions from arrays to Matplotlib figures, which `save_figure` writes as PNG files."""

from flax_vae.plots.curves import plot_comparison, plot_curves, plot_evaluation
from flax_vae.plots.images import (
    plot_extremes,
    plot_latent_grid,
    plot_reconstructions,
    plot_rows,
    plot_samples,
    save_image_grid,
)
from flax_vae.plots.latents import plot_latent_map
from flax_vae.plots.style import Figure, save_figure

__all__ = [
    "Figure",
    "plot_comparison",
    "plot_curves",
    "plot_evaluation",
    "plot_extremes",
    "plot_latent_grid",
    "plot_latent_map",
    "plot_reconstructions",
    "plot_rows",
    "plot_samples",
    "save_figure",
    "save_image_grid",
]
