"""The pictures of a run: what its model makes of the test set and of its latent space."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from flax_vae import plots
from flax_vae.data import ImageData
from flax_vae.evaluation import most_active_plane, posterior_means
from flax_vae.sampling import latent_grid, reconstruct, sample
from flax_vae.vae import VAE

_EXTENT = 2.0  # the latent plane's half side, in standard deviations of the prior


def draw_pictures(
    directory: Path, vae: VAE, params: Any, test: ImageData, metrics: list[dict[str, Any]], key: Key[Array, ""]
) -> None:
    """Write reconstructions, samples, latent grid, latent map and curves as PNG files."""
    directory.mkdir(exist_ok=True)
    reconstruct_key, sample_key = jax.random.split(key)
    originals = test.images[:10]
    means = posterior_means(vae, params, test.images)
    plane = most_active_plane(means)
    plots.plot_reconstructions(
        directory / "reconstructions.png",
        originals,
        np.asarray(reconstruct(vae, params, originals, reconstruct_key)),
        "Test images and their reconstructions",
    )
    plots.plot_samples(directory / "samples.png", np.asarray(sample(vae, params, sample_key, 10)))
    plots.plot_latent_grid(
        directory / "latent_grid.png",
        np.asarray(latent_grid(vae, params, 30, _EXTENT, plane)),
        _EXTENT,
        plane,
        means.shape[1],
    )
    plots.plot_latent_map(directory / "latent_map.png", means, test.labels, test.class_names, plane, means.shape[1])
    plots.plot_curves(directory / "curves.png", metrics)
