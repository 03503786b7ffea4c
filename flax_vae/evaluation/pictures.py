"""Pictures of a run: the test set as its model sees it, its latent space, and its evaluation."""

from collections.abc import Iterator
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Key

from flax_vae import plots
from flax_vae.batches import Batch, X, are_views, take, unpack
from flax_vae.data import Examples, as_batch, example_noun
from flax_vae.evaluation.samples import contexts_of
from flax_vae.metrics.latents import most_active_plane, posterior_means
from flax_vae.models.binding import Context, Params
from flax_vae.models.protocol import provides
from flax_vae.runs.records import Record
from flax_vae.runs.run import StoredRun
from flax_vae.sampling import latent_grid, reconstruct, reconstruct_layers, sample

Pictures = Iterator[tuple[str, plots.Figure]]
_TEMPERATURES = (0.5, 0.7, 0.85, 1.0)  # of a ladder's samples
_EXTENT = 2.0  # half the side of the latent plane, in standard deviations of the prior


def draw_pictures(directory: Path, run: StoredRun, test: Examples | None, key: Key[Array, ""]) -> None:
    """Write reconstructions, samples and curves as PNG files.

    A model with one latent vector also gets pictures of its latent plane, and a ladder pictures of its layers. For a
    conditional model, samples cycle through the classes, and the latent plane is decoded for the first.
    """
    directory.mkdir(exist_ok=True)
    for name, figure in _pictures(run, test, key):
        plots.save_figure(directory / f"{name}.png", figure)


def _pictures(run: StoredRun, test: Examples | None, key: Key[Array, ""]) -> Pictures:
    model, params = run.model, run.params
    reconstruct_key, sample_key = jax.random.split(key)
    yield "curves", plots.plot_curves(run.metrics, example_noun(run.kind))
    if run.kind != "images" or test is None:
        return
    batch = as_batch(test, run.class_names)
    first, contexts = take(batch, slice(10)), contexts_of(run, None, 10)
    images = reconstruct(model, params, first, reconstruct_key)
    yield (
        "reconstructions",
        plots.plot_reconstructions(test.x[:10], images, "Test images and their reconstructions"),
    )
    yield "samples", plots.plot_samples(sample(model, params, sample_key, 10, 1.0, contexts))
    if provides(model, "ladder"):
        yield "layers", _layers(model, params, first, reconstruct_key)
        yield "temperatures", _temperatures(model, params, sample_key, contexts)
    if provides(model, "single_layer"):
        yield from _plane(run, test, batch)


def _plane(run: StoredRun, test: Examples, batch: Batch) -> Pictures:
    """Draw the plane of the two most active latents: decoded as a grid, and with the posterior means of test images."""
    means, label = posterior_means(run.model, run.params, batch), run.class_names[0] if run.class_names else ""
    plane, dims = most_active_plane(means), means.shape[1]
    images = latent_grid(run.model, run.params, 30, _EXTENT, plane, contexts_of(run, None, 1))
    yield "latent_grid", plots.plot_latent_grid(images, _EXTENT, plane, dims, label)
    yield "latent_map", plots.plot_latent_map(means, test.labels, test.names, plane, dims)


def _layers(model: nn.Module, params: Params, images: Batch, key: Key[Array, ""]) -> plots.Figure:
    """Draw images reconstructed from the top layer of a ladder, from its top two layers, and so on."""
    reconstructions = np.asarray(reconstruct_layers(model, params, images, jax.random.clone(key)))
    counts = [f"top {count} layers" for count in range(2, len(reconstructions))]
    rows = np.concatenate([unpack(images, model)[0][None], reconstructions])
    names = ["original", "top layer", *counts, "all layers"]
    note = "the other layers are at the means of their priors"
    return plots.plot_rows(rows, names, "Test images reconstructed from the top layers alone", note)


def _temperatures(model: nn.Module, params: Params, key: Key[Array, ""], contexts: Context) -> plots.Figure:
    """Draw the same samples at several temperatures."""
    rows = [
        np.asarray(sample(model, params, jax.random.clone(key), 10, temperature, contexts))
        for temperature in _TEMPERATURES
    ]
    names = [f"temperature {temperature:g}" for temperature in _TEMPERATURES]
    return plots.plot_rows(np.stack(rows), names, "Samples at several temperatures", "each column from the same noise")


def draw_evaluation(directory: Path, record: Record, images: X, bounds: np.ndarray) -> None:
    """Draw the bounds and rates of an evaluation, and the ten most and the ten least likely of its images.

    Args:
        directory: the directory of the pictures.
        record: the contents of evaluation.json.
        images: the images for the bound, uint8 "n h w c", or vectors or views, which are not drawn.
        bounds: the bound "n" on log p(x) of each.
    """
    directory.mkdir(exist_ok=True)
    quantity = "minus the cross-entropy" if record["not_a_likelihood"] else "log p(x)"
    rates = record["dimension_rates"], record["layer_rates"]
    kind = "images" if not are_views(images) and images.ndim == 4 else "vectors"
    evaluation = plots.plot_evaluation(record["importance_weighted"], *rates, quantity, example_noun(kind))
    plots.save_figure(directory / "evaluation.png", evaluation)
    if kind != "images":
        return
    order = np.argsort(-bounds)
    shown = np.concatenate([order[:10], order[-10:]])
    plots.save_figure(directory / "extremes.png", plots.plot_extremes(images[shown], bounds[shown], quantity))
