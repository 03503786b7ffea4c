"""`flax-vae sample`: images from a run directory."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

from flax_vae.cli.exits import refuse_unwritable, run_command
from flax_vae.data import one_hot
from flax_vae.errors import UserError
from flax_vae.machine import use_machine
from flax_vae.plots.images import save_image_grid
from flax_vae.runs.fit import Run, load_data, load_run
from flax_vae.runs.pictures import class_after_class
from flax_vae.sampling import decode, encode, interpolate, latent_grid, reconstruct, sample, traverse


@dataclass(frozen=True)
class SampleArguments:
    """Make images with a trained model, from its run directory alone."""

    run: tyro.conf.Positional[Path]
    """Run directory, as train.py wrote it."""
    mode: Literal["prior", "grid", "reconstruct", "interpolate", "traverse"] = "prior"
    """New images from the prior; a 30x30 grid of the latent plane; test images above their reconstructions; the way
    from one test image to another; one test image with each latent dimension moved in turn."""
    sampler: Literal["prior", "gmm"] = "prior"
    """Where the latents of new images come from: the prior, or ten normals fitted to those of the training images."""
    label: str | None = None
    """Class of the new images, by name or number, of a run that was trained with --conditional; without it, one class
    after the other."""
    num_samples: int = 10
    """Images to make, to reconstruct, or steps from one end to the other."""
    seed: int = 0
    """The same seed gives the same file, byte for byte."""
    temperature: float = 1.0
    """Scale of the prior's standard deviation: below 1 for typical images, above 1 for unusual ones."""
    out: Path = Path("samples.png")
    """PNG file to write."""
    npy: Path | None = None
    """Also write the images as a float32 array "n h w c"."""


def make_samples(argv: Sequence[str] | None = None) -> int:
    """Run `sample.py`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run_command(lambda: _sample(tyro.cli(SampleArguments, args=argv)))


def _sample(arguments: SampleArguments) -> None:
    if arguments.num_samples < 1:
        raise UserError(f"--num-samples must be at least 1, not {arguments.num_samples}.")
    if not arguments.temperature > 0:
        raise UserError(f"--temperature must be above 0, not {arguments.temperature}.")
    if arguments.sampler == "gmm" and (arguments.mode, arguments.temperature) != ("prior", 1.0):
        raise UserError("--sampler gmm makes new images: it goes with neither another --mode nor a --temperature.")
    if arguments.label is not None and arguments.mode not in ("prior", "grid"):
        raise UserError(f"--label goes with --mode prior and grid: test images of {arguments.mode} have their own.")
    for path in filter(None, (arguments.out, arguments.npy)):
        refuse_unwritable(path, ".png" if path == arguments.out else "")
    use_machine()
    run = load_run(arguments.run)
    if run.class_names and arguments.sampler == "gmm":
        raise UserError("--sampler gmm does not know labels: it goes with unconditional runs.")
    images, columns = _images(run, arguments)
    save_image_grid(arguments.out, images, columns)
    if arguments.npy:
        np.save(arguments.npy, images)
    print(arguments.out)


def _images(run: Run, arguments: SampleArguments) -> tuple[np.ndarray, int]:
    """Images "n h w c" of a mode, and how many of them make a row."""
    key, n = jax.random.key(arguments.seed), arguments.num_samples
    first, second = np.random.default_rng(arguments.seed).choice(len(run.examples), 2)
    contexts, of_examples = _contexts(run, arguments.label, n), run.contexts
    match arguments.mode:
        case "prior":
            if arguments.sampler == "gmm":
                return np.asarray(decode(run.vae, run.params, _mixture_latents(run, n, arguments.seed))), min(n, 10)
            return np.asarray(sample(run.vae, run.params, key, n, arguments.temperature, contexts)), min(n, 10)
        case "grid":
            context = None if contexts is None else contexts[:1]
            grid = np.asarray(latent_grid(run.vae, run.params, context=context))
            grid = grid[::-1]  # the second latent grows upwards
            return grid.reshape(-1, *grid.shape[2:]), grid.shape[1]
        case "reconstruct":
            if n > len(run.examples):
                raise UserError(f"--num-samples {n}: the run holds {len(run.examples)} test images to reconstruct.")
            chosen = np.random.default_rng(arguments.seed).permutation(len(run.examples))[:n]
            originals = run.examples[chosen]
            batch = originals if of_examples is None else (originals, of_examples[chosen])
            made = np.asarray(reconstruct(run.vae, run.params, batch, key))
            return np.concatenate([originals.astype(np.float32) / 255, made]), n
        case "interpolate":
            ends = None if of_examples is None else of_examples[[first, second]]
            return np.asarray(interpolate(run.vae, run.params, run.examples[first], run.examples[second], n, ends)), n
        case "traverse":
            context = None if of_examples is None else of_examples[[first]]
            rows = np.asarray(traverse(run.vae, run.params, run.examples[first], n, context=context))
            return rows.reshape(-1, *rows.shape[2:]), n


def _contexts(run: Run, label: str | None, count: int) -> np.ndarray | None:
    """The classes of new images as one-hot vectors "n k"; None for an unconditional model."""
    names = run.class_names
    if label is None:
        return class_after_class(len(names), count)
    if not names:
        raise UserError(f"--label {label}: the run was not trained with --conditional.")
    numbers = {name: i for i, name in enumerate(names)} | {str(i): i for i in range(len(names))}
    if label not in numbers:
        raise UserError(f"--label {label}: the classes are {', '.join(names)}, or 0 to {len(names) - 1}.")
    return one_hot([numbers[label]] * count, len(names))


def _mixture_latents(run: Run, count: int, seed: int) -> np.ndarray:
    """Latents from a mixture of normals fitted to draws of the training images' posteriors (Ghosh et al. 2020)."""
    from sklearn.mixture import GaussianMixture

    train_set, _ = load_data(run)
    key, images = jax.random.key(seed), train_set.images[:10_000]
    z = jax.lax.map(
        lambda image_and_key: encode(run.vae, run.params, image_and_key[0][None]).sample(image_and_key[1])[0],
        (images, jax.random.split(key, len(images))),
        batch_size=100,
    )
    mixture = GaussianMixture(min(10, len(z)), random_state=seed).fit(np.asarray(z, np.float64))
    return mixture.sample(count)[0].astype(np.float32)
