"""Pictures of a run: the test set as its model sees it, its latent space, and its evaluation."""

from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Key

from flax_vae import plots
from flax_vae.batches import Batch, take, unpack
from flax_vae.data import ImageData, as_batch
from flax_vae.evaluation.samples import contexts_of
from flax_vae.metrics.latents import most_active_plane, posterior_means
from flax_vae.models.binding import Context, Params
from flax_vae.models.protocol import provides
from flax_vae.runs.records import Record
from flax_vae.runs.run import StoredRun
from flax_vae.sampling import latent_grid, reconstruct, reconstruct_layers, sample

_TEMPERATURES = (0.5, 0.7, 0.85, 1.0)  # of a ladder's samples
_EXTENT = 2.0  # half the side of the latent plane, in standard deviations of the prior


def draw_pictures(directory: Path, run: StoredRun, test: ImageData, key: Key[Array, ""]) -> None:
    """Write reconstructions, samples and curves as PNG files.

    A model with one latent vector also gets pictures of its latent plane, and a ladder pictures of its layers. For a
    conditional model, samples cycle through the classes, and the latent plane is decoded for the first.
    """
    directory.mkdir(exist_ok=True)
    vae, params = run.model, run.params
    reconstruct_key, sample_key = jax.random.split(key)
    batch = as_batch(test, run.class_names)
    first, contexts = take(batch, slice(10)), contexts_of(run, None, 10)
    images = np.asarray(reconstruct(vae, params, first, reconstruct_key))
    title = "Test images and their reconstructions"
    plots.plot_reconstructions(directory / "reconstructions.png", test.images[:10], images, title)
    plots.plot_samples(directory / "samples.png", np.asarray(sample(vae, params, sample_key, 10, 1.0, contexts)))
    plots.plot_curves(directory / "curves.png", run.metrics)
    if provides(vae, "ladder"):
        _draw_layers(directory / "layers.png", vae, params, first, reconstruct_key)
        _draw_temperatures(directory / "temperatures.png", vae, params, sample_key, contexts)
    if provides(vae, "single_layer"):
        _draw_plane(directory, run, test, batch)


def _draw_plane(directory: Path, run: StoredRun, test: ImageData, batch: Batch) -> None:
    """Draw the plane of the two most active latents: decoded as a grid, and with the posterior means of test images."""
    means, label = posterior_means(run.model, run.params, batch), run.class_names[0] if run.class_names else ""
    plane = most_active_plane(means)
    images = np.asarray(latent_grid(run.model, run.params, 30, _EXTENT, plane, contexts_of(run, None, 1)))
    plots.plot_latent_grid(directory / "latent_grid.png", images, _EXTENT, plane, means.shape[1], label)
    plots.plot_latent_map(directory / "latent_map.png", means, test.labels, test.class_names, plane, means.shape[1])


def _draw_layers(path: Path, vae: nn.Module, params: Params, images: Batch, key: Key[Array, ""]) -> None:
    """Draw images reconstructed from the top layer of a ladder, from its top two layers, and so on."""
    reconstructions = np.asarray(reconstruct_layers(vae, params, images, jax.random.clone(key)))
    counts = [f"top {count} layers" for count in range(2, len(reconstructions))]
    rows = np.concatenate([unpack(images)[0][None], reconstructions])
    names = ["original", "top layer", *counts, "all layers"]
    note = "the other layers are at the means of their priors"
    plots.plot_rows(path, rows, names, "Test images reconstructed from the top layers alone", note)


def _draw_temperatures(path: Path, vae: nn.Module, params: Params, key: Key[Array, ""], contexts: Context) -> None:
    """Draw the same samples at several temperatures."""
    rows = [
        np.asarray(sample(vae, params, jax.random.clone(key), 10, temperature, contexts))
        for temperature in _TEMPERATURES
    ]
    names = [f"temperature {temperature:g}" for temperature in _TEMPERATURES]
    plots.plot_rows(path, np.stack(rows), names, "Samples at several temperatures", "each column from the same noise")


def draw_evaluation(directory: Path, record: Record, images: np.ndarray, bounds: np.ndarray) -> None:
    """Draw the bounds and rates of an evaluation, and the ten most and the ten least likely of its images.

    Args:
        directory: the directory of the pictures.
        record: the contents of evaluation.json.
        images: the images for the bound, uint8 "n h w c".
        bounds: the bound "n" on log p(x) of each.
    """
    directory.mkdir(exist_ok=True)
    quantity = "minus the cross-entropy" if record["not_a_likelihood"] else "log p(x)"
    rates = record["dimension_rates"], record["layer_rates"]
    plots.plot_evaluation(directory / "evaluation.png", record["importance_weighted"], *rates, quantity)
    order = np.argsort(-bounds)
    shown = np.concatenate([order[:10], order[-10:]])
    plots.plot_extremes(directory / "extremes.png", images[shown], bounds[shown], quantity)
