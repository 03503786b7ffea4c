"""The pictures of a run: what its model makes of the test set and of its latent space."""

from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Key

from flax_vae import plots
from flax_vae.batches import Batch, take, unpack
from flax_vae.data import ImageData, as_batch, one_hot
from flax_vae.metrics.latents import most_active_plane, posterior_means
from flax_vae.models.protocol import is_flat
from flax_vae.models.vae import Params
from flax_vae.runs.records import Record
from flax_vae.sampling import latent_grid, reconstruct, reconstruct_layers, sample

_TEMPERATURES = (0.5, 0.7, 0.85, 1.0)  # of a ladder's samples
_EXTENT = 2.0  # the latent plane's half side, in standard deviations of the prior


def draw_pictures(
    directory: Path,
    vae: nn.Module,
    params: Params,
    test: ImageData,
    metrics: list[Record],
    key: Key[Array, ""],
    class_names: tuple[str, ...] = (),
) -> None:
    """Write reconstructions, samples and curves as PNG files; of a flat latent vector its grid and map, of a ladder its
    layers, too.

    A conditional model has classes: its samples are of one after the other, and its latent grid is of the first.
    """
    directory.mkdir(exist_ok=True)
    reconstruct_key, sample_key = jax.random.split(key)
    batch = as_batch(test, class_names)
    originals, first = test.images[:10], take(batch, slice(10))
    contexts = class_after_class(len(class_names), 10)
    plots.plot_reconstructions(
        directory / "reconstructions.png",
        originals,
        np.asarray(reconstruct(vae, params, first, reconstruct_key)),
        "Test images and their reconstructions",
    )
    plots.plot_samples(directory / "samples.png", np.asarray(sample(vae, params, sample_key, 10, 1.0, contexts)))
    plots.plot_curves(directory / "curves.png", metrics)
    if hasattr(vae, "infer_top"):
        _draw_layers(directory, vae, params, first, reconstruct_key, sample_key, contexts)
    if not is_flat(vae):
        return
    means = posterior_means(vae, params, batch)
    plane = most_active_plane(means)
    plots.plot_latent_grid(
        directory / "latent_grid.png",
        np.asarray(latent_grid(vae, params, 30, _EXTENT, plane, None if contexts is None else contexts[:1])),
        _EXTENT,
        plane,
        means.shape[1],
        class_names[0] if class_names else "",
    )
    plots.plot_latent_map(directory / "latent_map.png", means, test.labels, test.class_names, plane, means.shape[1])


def _draw_layers(
    directory: Path,
    vae: nn.Module,
    params: Params,
    first: Batch,
    reconstruct_key: Key[Array, ""],
    sample_key: Key[Array, ""],
    contexts: np.ndarray | None,
) -> None:
    """What each layer of a ladder knows, and what is made at several temperatures."""
    back = np.asarray(reconstruct_layers(vae, params, first, reconstruct_key))
    words = ["top layer", *(f"{count} layers" for count in range(2, len(back))), "all layers"]
    rows = np.concatenate([unpack(first)[0][None], back])
    plots.plot_rows(
        directory / "layers.png", rows, ["original", *words], "Test images from the top layers alone",
        "the others are at the means of their priors",
    )  # fmt: skip
    cold = np.stack([np.asarray(sample(vae, params, sample_key, 10, each, contexts)) for each in _TEMPERATURES])
    names = [f"temperature {each:g}" for each in _TEMPERATURES]
    plots.plot_rows(directory / "temperatures.png", cold, names, "Samples", "the same draws")


def class_after_class(classes: int, count: int) -> np.ndarray | None:
    """One-hot vectors "n k" of one class after the other, and again; None of an unconditional model, without any."""
    return one_hot(np.arange(count) % classes, classes) if classes else None
