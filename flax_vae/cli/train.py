"""`flax-vae train`: from arguments to a run."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import tyro

from flax_vae.cli.exits import run_command
from flax_vae.errors import UserError
from flax_vae.machine import cpu_cores, use_machine
from flax_vae.runs.build import load_objective
from flax_vae.runs.config import RECIPES, Config, read_config
from flax_vae.runs.fit import Run, fit, fit_many, member_directories, resume, resume_many


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


def train(argv: Sequence[str] | None = None) -> int:
    """Run `train.py`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run_command(lambda: _train(argv))


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
