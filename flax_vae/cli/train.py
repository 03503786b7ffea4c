"""`flax-vae train`, and `train.py`: from flags to runs."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, make_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from flax_vae.cli.exits import run_command
from flax_vae.fitting.build import load_objective
from flax_vae.fitting.fit import Run, fit, fit_many, resume, resume_many
from flax_vae.runs.config import PARTS, RECIPES, Config, recipe_of
from flax_vae.runs.directory import RunDirectory
from flax_vae.system.console import log, print_result, printable
from flax_vae.system.errors import UserError
from flax_vae.system.machine import Cluster, cpu_cores, use_machine
from flax_vae.system.processes import is_first_process

_MOST_MEMBERS = 1000  # each has a run directory of its own, and files in it open all the time
EXAMPLES = """
examples:
  flax-vae train                                                about a minute on two cores
  flax-vae train --preset "gated_mlp(features=(500, 500))" --latent-dim 40 --binarize dynamic --prior vamp
  flax-vae train --seeds 4 --betas 0.5 1 2 4                    sixteen trainings in one program
"""


def _default(field: "Field[Any]") -> str:
    """The value of a flag that is left out, and which presets have another: "(default: 8; tutorial_dense: 15)"."""
    usual = field.metadata["usual"]
    recipes = {name: recipe_of(name).get(field.name, usual) for name in RECIPES}
    others = defaultdict(list)
    for name, value in recipes.items():
        if value != usual:
            others[value].append(name)
    words = "".join(f"; {', '.join(names)}: {value}" for value, names in others.items())
    return "" if usual is None and not words else f"(default: {usual}{words})"


def _help(field: "Field[Any]") -> str:
    """What a flag is for; for a part, all that there are."""
    meaning = field.metadata["meaning"]
    return f"{meaning}\n{PARTS[field.name].help()}" if field.name in PARTS else meaning


def _group(name: str, *more: tuple[str, Any, Any]) -> type:
    """The flags of a group of `Config`: what is left out is None, so that the preset's recipe has its say."""
    hints, flags = get_type_hints(Config), []
    for each in fields(Config):
        if each.metadata["group"] == name:
            argument = tyro.conf.arg(help=_help(each), help_behavior_hint=_default(each))
            kind, default = (bool, False) if hints[each.name] is bool else (hints[each.name] | None, None)
            flags.append((each.name, Annotated[kind, argument], default))
    return make_dataclass(name, [*flags, *more], frozen=True)


def _flag(kind: Any, meaning: str) -> Any:
    return Annotated[kind, tyro.conf.arg(help=meaning)]


_ENSEMBLE = (
    ("seeds", _flag(int, "Train this many seeds, --seed and those after it, in one program."), 1),
    (
        "betas",
        _flag(tuple[float, ...], "Train each of these values of --beta, with each seed, in the same program."),
        (),
    ),
    (
        "learning_rates",
        _flag(tuple[float, ...], "Train each of these values of --learning-rate, with each seed and beta."),
        (),
    ),
)
_OUTPUT = (
    ("out", _flag(str | None, "Run directory, new or empty; by default runs/<preset>-<time>, also runs/latest."), None),
    ("resume", _flag(str | None, "Resume this run directory, with the flags that it was started with."), None),
)
_PROCESSES = (
    (
        "coordinator",
        _flag(
            str | None,
            'Train in several processes, each started with the same flags: "host:port" at which they reach the first; '
            '"auto" where JAX finds them, as on Slurm and Cloud TPUs.',
        ),
        None,
    ),
    ("num_processes", _flag(int | None, "How many processes there are."), None),
    ("process_id", _flag(int | None, "Which of them this is, from 0."), None),
)
_GROUPS = {
    "data": _group("data"),
    "model": _group("model"),
    "objective": _group("objective"),
    "optimisation": _group("optimisation", *_ENSEMBLE),
    "machine": _group("machine", *_PROCESSES),
    "output": _group("output", *_OUTPUT),
}


_BESIDE = tuple(name for name, *_ in (*_ENSEMBLE, *_OUTPUT, *_PROCESSES))


@dataclass(frozen=True)
class Flags:
    """What was given: the settings of `Config`, and what is beside them."""

    config: dict[str, Any]
    seeds: int
    betas: tuple[float, ...]
    learning_rates: tuple[float, ...]
    out: str | None
    resume: str | None
    coordinator: str | None
    num_processes: int | None
    process_id: int | None

    @property
    def cluster(self) -> Cluster | None:
        """The processes that train together."""
        if self.coordinator is None:
            if self.num_processes is not None or self.process_id is not None:
                raise UserError("--num-processes and --process-id go with --coordinator, which says where they meet.")
            return None
        return Cluster(self.coordinator, self.num_processes, self.process_id)


def given(parsed: Any) -> Flags:
    """What a parsed command line sets; what it leaves out is not in it, and a zero is."""
    values = {each.name: getattr(part, each.name) for part in vars(parsed).values() for each in fields(part)}
    beside = {name: values.pop(name) for name in _BESIDE}
    return Flags({name: value for name, value in values.items() if value is not None and value is not False}, **beside)


def _run(parsed: Any) -> None:
    """Run the command."""
    flags = given(parsed)
    for run in _resume(flags) if flags.resume else _start(flags):
        if not is_first_process():
            return
        name = printable(run.name)
        print_result(f"{name}: look at {Path(name) / 'pictures'}, make images by flax-vae sample {name}")


Train: Any = make_dataclass(
    "Train",
    [(name, Annotated[kind, tyro.conf.OmitArgPrefixes], kind()) for name, kind in _GROUPS.items()],
    frozen=True,
    namespace={"__call__": _run},
)
Train.examples = EXAMPLES
Train.__doc__ = """Train a variational autoencoder and look at it.

Without a flag: a gated MLP with two latent dimensions on Fashion-MNIST, in about a minute on two cores. The run
directory holds config.json, metrics.jsonl, checkpoints, TensorBoard events and pictures.
"""


def train(argv: Sequence[str] | None = None) -> int:
    """Run `train.py`; returns the exit code."""
    return run_command(lambda: tyro.cli(Train, args=argv, prog="train", config=(tyro.conf.DisallowNone,)), EXAMPLES)


def _start(flags: Flags) -> list[Run]:
    if flags.seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {flags.seeds}.")
    config = Config(**flags.config)
    rates, betas = flags.learning_rates or (config.learning_rate,), flags.betas or (config.beta,)
    if (members := len(rates) * len(betas) * flags.seeds) > _MOST_MEMBERS:
        raise UserError(f"--seeds {flags.seeds} makes {members:,} trainings in one program: {_MOST_MEMBERS} at most.")
    configs = [
        replace(config, learning_rate=rate, beta=beta, seed=config.seed + i)
        for rate, beta, i in product(rates, betas, range(flags.seeds))
    ]
    _use_machine(config, len(configs), flags.cluster)
    return fit_many(configs, flags.out) if len(configs) > 1 else [fit(configs[0], flags.out)]


def _resume(flags: Flags) -> list[Run]:
    extra = flags.config.keys() - {"objective", "devices", "fsdp"}
    if extra or flags.out or flags.betas or flags.learning_rates or flags.seeds != 1:
        raise UserError(
            "--resume takes the flags that the run was started with: only --objective, and the devices and processes, "
            "may stand beside it."
        )
    assert flags.resume is not None
    directory = RunDirectory(Path(flags.resume))
    members = directory.members()
    runs = members or [directory]
    devices, fsdp = flags.config.get("devices"), flags.config.get("fsdp")
    _use_machine(runs[0].config()[0].on_devices(devices, fsdp), len(runs), flags.cluster)
    written = flags.config.get("objective")
    objective = load_objective(written) if written else None
    if members:
        return resume_many(flags.resume, objective=objective, devices=devices, fsdp=fsdp)
    return [resume(flags.resume, objective=objective, devices=devices, fsdp=fsdp)]


def _use_machine(config: Config, members: int, cluster: Cluster | None) -> None:
    """Each CPU core becomes a device where cores are to work by themselves: on microbatches, or on a member each."""
    cores = min(cpu_cores(), 8)
    # Matrix products use all cores of a device: sharing a batch between devices would only cost.
    count = config.devices or (cores if config.microbatch_size else math.gcd(members, cores))
    if cluster is None:
        use_machine(count)
    else:
        log(f"Waiting for the other processes ({cluster.coordinator}), five minutes at most.")
        use_machine(-(-count // (cluster.num_processes or 1)), cluster)
