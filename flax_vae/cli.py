"""The command lines of `train.py` and `sample.py`: arguments in, exit codes out."""

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from flax_vae.assemble import load_objective
from flax_vae.config import RECIPES, Binarize, Config, read_config
from flax_vae.data import one_hot
from flax_vae.errors import UserError
from flax_vae.loop import Interrupted
from flax_vae.machine import cpu_cores, use_machine
from flax_vae.pictures import class_after_class
from flax_vae.plots import save_image_grid
from flax_vae.report import say
from flax_vae.runs import (
    Run,
    fit,
    fit_many,
    load_data,
    load_run,
    member_directories,
    resume,
    resume_many,
)
from flax_vae.sampling import decode, encode, interpolate, latent_grid, reconstruct, sample, traverse
from flax_vae.scorecard import evaluate
from flax_vae.tables import compare, show


@dataclass(frozen=True)
class TrainArguments:
    """Train a variational autoencoder and look at it.

    Without a flag: a gated MLP with two latent dimensions on Fashion-MNIST, in about a minute on two cores. Everything
    about the run lands in its directory: config.json, metrics.jsonl, checkpoints, TensorBoard events and pictures.
    """

    config: tyro.conf.OmitArgPrefixes[Config] = field(default_factory=Config)
    seeds: int = 1
    """Train this many seeds, --seed and those after it, in one program."""
    betas: tuple[float, ...] = ()
    """Train each of these values of --beta, with each seed, in the same program."""
    learning_rates: tuple[float, ...] = ()
    """Train each of these values of --learning-rate, with each seed and beta, in the same program."""
    out: str | None = None
    """Run directory, new or empty; by default runs/<preset>-<time>, also reached as runs/latest."""
    resume: str | None = None
    """Go on with an interrupted run directory, with the flags it was started with."""


@dataclass(frozen=True)
class ResumeArguments:
    """Go on with an interrupted run; its flags are in the run directory."""

    resume: str
    """Run directory."""
    objective: str | None = None
    """The run's objective again, where it is one of your own: my_module:my_objective."""


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


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on its test set: a table here, evaluation.json and pictures in the run directory."""

    run: tyro.conf.Positional[Path]
    """Run directory, as train.py wrote it."""
    num_samples: tuple[int, ...] = (10, 100, 1000)
    """Draws per image of the importance-weighted log-likelihood, once for each number."""
    num_images: int = 1000
    """Test images that it is measured on, chosen by the seed."""
    seed: int = 0
    """Seed of the draws."""
    binarize: Binarize | None = None
    """Draw the images' pixels as 0 or 1, or not, otherwise than the run did; the test images once, by
    --binarize-seed, for fixed and for dynamic."""
    binarize_seed: int = 0
    """Seed of the pixels, with --binarize."""

    def __call__(self) -> None:
        """Run the command."""
        use_machine()
        show(evaluate(self.run, self.num_samples, self.num_images, self.seed, None, self.binarize, self.binarize_seed))


@dataclass(frozen=True)
class Compare:
    """Runs beside each other: a table here, and one picture of their test losses."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories, as train.py wrote them."""
    out: Path = Path("comparison.png")
    """PNG file to write."""

    def __call__(self) -> None:
        """Run the command."""
        if not self.runs:
            raise UserError("flax-vae compare: name the run directories.")
        _refuse_unwritable(self.out)
        compare(self.runs, self.out)
        print(self.out)


_COMMANDS: dict[str, Callable[..., Any]] = {"evaluate": Evaluate, "compare": Compare}


def train(argv: Sequence[str] | None = None) -> int:
    """Run `train.py`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return _exit_code(lambda: _train(argv))


def make_samples(argv: Sequence[str] | None = None) -> int:
    """Run `sample.py`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return _exit_code(lambda: _sample(tyro.cli(SampleArguments, args=argv)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flax-vae`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return _exit_code(lambda: tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog="flax-vae", args=argv)())


def _exit_code(command: Callable[[], None]) -> int:
    try:
        command()
    except UserError as error:
        say(f"error: {error}")
        return 2
    except Interrupted as interrupted:
        say(str(interrupted))
        return 128 + interrupted.signum
    except KeyboardInterrupt:
        say("Interrupted.")
        return 128 + signal.SIGINT
    return 0


def _train(argv: Sequence[str]) -> None:
    if any(word == "--resume" or word.startswith("--resume=") for word in argv):
        again = tyro.cli(ResumeArguments, args=argv)
        members = member_directories(again.resume)
        config, _ = read_config((members[0] if members else Path(again.resume)) / "config.json")
        _use_machine(config, len(members))
        objective = load_objective(again.objective) if again.objective else None
        go_on: Callable[..., Run | list[Run]] = resume_many if members else resume
        runs = go_on(again.resume, objective=objective)
    else:
        default = TrainArguments(RECIPES.get(_preset(argv), Config()))
        arguments = tyro.cli(TrainArguments, args=argv, default=default)
        configs = _members(arguments)
        _use_machine(arguments.config, len(configs))
        runs = fit_many(configs, arguments.out) if len(configs) > 1 else fit(configs[0], arguments.out)
    for run in runs if isinstance(runs, list) else [runs]:
        print(f"{run.directory}: look at {run.directory / 'pictures'}, make images by python sample.py {run.directory}")


def _members(arguments: TrainArguments) -> list[Config]:
    """A configuration for each learning rate, beta and seed."""
    config = arguments.config
    if arguments.seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {arguments.seeds}.")
    rates, betas = arguments.learning_rates or (config.learning_rate,), arguments.betas or (config.beta,)
    return [
        replace(config, learning_rate=rate, beta=beta, seed=config.seed + i)
        for rate, beta, i in product(rates, betas, range(arguments.seeds))
    ]


def _use_machine(config: Config, members: int) -> None:
    """Each CPU core becomes a device where cores are to work by themselves: on microbatches, or on a member each."""
    use_machine(config.devices or (min(cpu_cores(), 8) if config.microbatch_size or members > 1 else 1))


def _preset(argv: Sequence[str]) -> str:
    """The preset on the command line, since the defaults of the other flags are its recipe."""
    words = [word for argument in argv for word in argument.split("=", 1)]
    return words[words.index("--preset") + 1] if "--preset" in words[:-1] else Config().preset


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
        _refuse_unwritable(path, ".png" if path == arguments.out else "")
    use_machine()
    run = load_run(arguments.run)
    if run.class_names and arguments.sampler == "gmm":
        raise UserError("--sampler gmm does not know labels: it goes with unconditional runs.")
    images, columns = _images(run, arguments)
    save_image_grid(arguments.out, images, columns)
    if arguments.npy:
        np.save(arguments.npy, images)
    print(arguments.out)


def _refuse_unwritable(path: Path, suffix: str = ".png") -> None:
    if suffix and path.suffix.lower() != suffix:
        raise UserError(f"--out {path}: name a file that ends in {suffix}.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.absolute().parent} is no directory to write {path.name} to.")


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
