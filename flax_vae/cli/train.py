"""`flax-vae train`, and `train.py`: train a model, or several in one program, or resume.

Most flags are the fields of `Config`, with their groups, meanings and defaults. The others are defined here.

examples:
  flax-vae train                                                about a minute on two cores
  flax-vae train --preset "gated_mlp(features=(500, 500))" --latent-dim 40 --binarize dynamic --prior vamp
  flax-vae train --seeds 4 --betas 0.5 1 2 4                    sixteen trainings in one program
  flax-vae train --objective "infovae(weight=10)" "infovae(weight=100)"
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, make_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import tyro

from flax_vae.cli.exits import run_command
from flax_vae.data import SOURCES
from flax_vae.evaluation.run import Run
from flax_vae.fields import docstrings
from flax_vae.fitting.fit import fit, fit_many, resume, resume_many
from flax_vae.runs.config import PARTS, RECIPES, Config, recipe_of
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.members import SWEPT_PARTS
from flax_vae.runs.models import command
from flax_vae.system.console import log, print_result, printable
from flax_vae.system.errors import UserError
from flax_vae.system.machine import cpu_cores, use_machine
from flax_vae.system.processes import Cluster, is_first_process

_MOST_MEMBERS = 1000  # each has its own run directory, with files open throughout


def _settings(group: str) -> Any:
    """Make a dataclass of the flags of one group of `Config`; a flag that is left out is None, a switch False."""
    flags: list[tuple[str, Any, Any]] = []
    for field in fields(Config):
        if field.metadata["group"] == group:
            kind: Any
            default: Any
            kind, default = (bool, False) if field.type is bool else (field.type | None, None)  # type: ignore[operator]
            if field.name in SWEPT_PARTS:  # each value makes a member
                kind, default = tuple[str, ...], ()
            argument = tyro.conf.arg(help=_meaning(field), help_behavior_hint=_default(field))
            flags.append((field.name, Annotated[kind, argument], default))
    return make_dataclass(group, flags, frozen=True)


def _meaning(field: "Field[Any]") -> str:
    """The help of a flag; for a kind of part, with a line for each part."""
    meaning = docstrings(Config).get(field.name, "")
    if field.name == "dataset":
        return f"{meaning}\nRegistered: {', '.join(SOURCES)}."
    return f"{meaning}\n{PARTS[field.name].help()}" if field.name in PARTS else meaning


def _default(field: "Field[Any]") -> str:
    """The default of a flag, and the presets that override it: "(default: 8; tutorial_dense: 15)"."""
    usual = field.metadata["usual"]
    presets = defaultdict(list)
    for preset in RECIPES:
        value = recipe_of(preset).get(field.name, usual)
        if value != usual:
            presets[value].append(preset)
    others = "".join(f"; {', '.join(names)}: {value}" for value, names in presets.items())
    return f"(default: {usual}{others})" if others or usual is not None else ""


@dataclass(frozen=True)
class _Optimisation(_settings("optimisation")):  # type: ignore[misc]
    seeds: int = 1
    """Train this many seeds, --seed and those after it, in one program."""
    betas: tuple[float, ...] = ()
    """Train each of these values of --beta, with each seed, in the same program."""
    learning_rates: tuple[float, ...] = ()
    """Train each of these values of --learning-rate, with each seed and beta."""

    def members(self, configs: Sequence[Config]) -> list[Config]:
        """Return the configurations of all trainings: each of `configs` at every learning rate, beta and seed."""
        if self.seeds < 1:
            raise UserError(f"--seeds must be at least 1, not {self.seeds}.")
        count = len(configs) * max(1, len(self.learning_rates)) * max(1, len(self.betas)) * self.seeds
        if count > _MOST_MEMBERS:
            raise UserError(
                f"This command makes {count:,} trainings in one program; the limit is {_MOST_MEMBERS:,}: lower "
                "--seeds, or give fewer values to train."
            )
        return [
            replace(config, learning_rate=rate, beta=beta, seed=config.seed + i)
            for config in configs
            for rate in self.learning_rates or (config.learning_rate,)
            for beta in self.betas or (config.beta,)
            for i in range(self.seeds)
        ]


@dataclass(frozen=True)
class _Machine(_settings("machine")):  # type: ignore[misc]
    coordinator: str | None = None
    """Address of the first process, "host:port", to train in several processes, all started with the same flags.
    Or "auto" if JAX detects the processes, as on Slurm and Cloud TPUs."""
    num_processes: int | None = None
    """The number of processes."""
    process_id: int | None = None
    """The index of this process, from 0."""

    def use(self, config: Config, members: int) -> None:
        """Make each CPU core a device if cores work separately: on microbatches, or on one member each."""
        cores = min(cpu_cores(), 8)
        # Matrix products use all cores of a device: splitting a batch among devices would only cost time.
        count = config.devices or (cores if config.microbatch_size else math.gcd(members, cores))
        if self.coordinator is not None:
            cluster = Cluster(self.coordinator, self.num_processes, self.process_id)
            log(f"Waiting at most five minutes for the other processes ({self.coordinator}).")
            use_machine(-(-count // (self.num_processes or 1)), cluster)
        elif self.num_processes is not None or self.process_id is not None:
            raise UserError("--num-processes and --process-id need --coordinator, the address of the first process.")
        else:
            use_machine(count)


@dataclass(frozen=True)
class _Output(_settings("output")):  # type: ignore[misc]
    out: Annotated[str | None, tyro.conf.arg(aliases=("-o",))] = None
    """Run directory, new or empty; by default runs/<preset>-<time>, also runs/latest."""
    resume: str | None = None
    """Resume this run directory, with the flags that it was started with.
    Beside it, give what changes: --epochs, --learning-rate, --schedule, --dataset if the images have moved, ..."""


@tyro.conf.configure(tyro.conf.OmitArgPrefixes)
@dataclass(frozen=True)
class Train:
    """Train a variational autoencoder and look at it.

    Without a flag: a gated MLP with two latent dimensions on Fashion-MNIST, in about a minute on two cores. The run
    directory holds config.json, metrics.jsonl, checkpoints, TensorBoard events and pictures.
    """

    data: _settings("data")
    model: _settings("model")
    objective: _settings("objective")
    optimisation: _Optimisation
    machine: _Machine
    output: _Output

    def __call__(self) -> None:
        """Run the command."""
        for run in self._resume(self.output.resume) if self.output.resume else self._start():
            if is_first_process():
                drawn = "pictures" if run.kind == "images" else "curves"
                sample = command("flax-vae sample", run.name, run.config)
                line = f"{run.name}: {drawn} are in {Path(run.name) / 'pictures'}; sample with {sample}"
                print_result(printable(line))

    def settings(self) -> list[dict[str, Any]]:
        """Return the settings of `Config` that the command line gives, explicit zeros included.

        The list has several entries if the flag of a part in `SWEPT_PARTS` has several values.
        """
        values = {name: value for group in vars(self).values() for name, value in vars(group).items()}
        several = {name: values.pop(name) or (None,) for name in SWEPT_PARTS}
        names = [field.name for field in fields(Config)]

        def given(values: dict[str, Any]) -> dict[str, Any]:
            return {name: values[name] for name in names if values[name] is not None and values[name] is not False}

        return [given(values | dict(zip(several, each, strict=True))) for each in product(*several.values())]

    def _start(self) -> list[Run]:
        configs = self.optimisation.members([Config(**settings) for settings in self.settings()])
        config = configs[0]
        self.machine.use(config, len(configs))
        out = self.output.out
        return fit_many(configs, out) if len(configs) > 1 else [fit(configs[0], out)]

    def _resume(self, path: str) -> list[Run]:
        (changes, *others), ensemble = self.settings(), self.optimisation
        if self.output.out or ensemble.betas or ensemble.learning_rates or ensemble.seeds != 1:
            raise UserError(
                "--resume continues the runs of a directory: leave out --out, --seeds, --betas and --learning-rates."
            )
        if others:
            raise UserError("--resume takes only one value each of --objective, --optimizer and --schedule.")
        model, objective = changes.pop("preset", None), changes.pop("objective", None)
        directory = RunDirectory(Path(path))
        members = directory.members()
        runs = members or [directory]
        self.machine.use(runs[0].config().resumed_with(**changes), len(runs))
        changes |= {"model": model, "objective": objective}
        return resume_many(path, **changes) if members else [resume(path, **changes)]


def train(argv: Sequence[str] | None = None) -> int:
    """Run `train.py` and return the exit code."""
    disallow_none = (tyro.conf.DisallowNone,)
    return run_command(lambda: tyro.cli(Train, args=argv, prog="train", config=disallow_none), Train)
