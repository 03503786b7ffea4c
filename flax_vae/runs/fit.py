"""A run: a directory that holds a training's configuration, checkpoints, metrics and pictures."""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from flax_vae import __version__
from flax_vae.console import say
from flax_vae.data import ImageData, absolute, as_batch, class_names, is_binary, one_hot
from flax_vae.distributions.pixels import Bernoulli
from flax_vae.errors import UserError
from flax_vae.models.vae import VAE, init
from flax_vae.objectives.binarized import DynamicallyBinarized
from flax_vae.objectives.schedules import refuse_unfinished
from flax_vae.objectives.terms import Objective
from flax_vae.runs import checkpoints
from flax_vae.runs.build import load_splits, make_objective, make_vae
from flax_vae.runs.config import SWEPT, Binarize, Config, member_names, read_config, write_config
from flax_vae.runs.ensemble import FAILED, Member, Training, checkpoint_items
from flax_vae.runs.loop import train
from flax_vae.runs.pictures import draw_pictures
from flax_vae.runs.report import best_record, keep_metrics_until, read_metrics, write_summary
from flax_vae.training.optimizers import make_optimizer
from flax_vae.training.step import TrainState

_EXAMPLES = 64  # test images kept in the run, so that sampling needs no data set
_LABELS = "labels.json"  # of a conditional run: its classes, and the labels of these images


@dataclass(frozen=True)
class Run:
    """A trained model and where it came from.

    Attributes:
        directory: the run directory.
        config: the whole configuration.
        vae: the model.
        params: its parameters at the best test loss (the averaged ones where there are any).
        step: the update after which the parameters were these.
        metrics: one record per epoch.
        examples: a few uint8 test images "n h w c".
        class_names: of the labels that a conditional model is given; empty for others.
        contexts: the examples' labels as one-hot vectors "n k", or None.
    """

    directory: Path
    config: Config
    vae: VAE
    params: Any
    step: int
    metrics: list[dict[str, Any]]
    examples: np.ndarray
    class_names: tuple[str, ...] = ()
    contexts: np.ndarray | None = None


def fit(
    config: Config, out: str | Path | None = None, vae: VAE | None = None, objective: Objective | None = None
) -> Run:
    """Train a model from the start and write its run directory.

    Args:
        config: model, data, objective and recipe.
        out: a directory that does not exist yet or is empty; default `runs/<preset>-<time>`.
        vae: a model of your own instead of the preset's.
        objective: a function of your own instead of the one that `config.objective` names.

    Raises:
        UserError: bad input, before anything is written; or a loss that is not finite.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    training = _prepare(config, vae, objective)
    totals = training.fresh_totals()  # traces the objective, so that one that cannot train is refused here
    directory = _free_directory(config, out)
    _create(directory, training)
    _point_latest(directory)
    train(directory, [Member(directory, training, training.fresh_state(), totals)])
    return _finish(directory, training)


def fit_many(
    configs: Sequence[Config],
    out: str | Path | None = None,
    vae: VAE | None = None,
    objective: Objective | None = None,
) -> list[Run]:
    """Train configurations that differ in their seed, beta or learning rate, in one program.

    Each becomes a run directory of its own within `out`, named after what differs, beside `summary.json`: mean and
    standard deviation over the seeds. One that comes to a loss that is not finite stops, and the others go on.

    Args:
        configs, vae, objective: as for `fit`; the data, too, are shared.
        out: a directory that does not exist yet or is empty; default `runs/<preset>-<time>`.

    Returns:
        The runs that finished, in the order of their configurations.

    Raises:
        UserError: as for `fit`, or configurations that differ in something else, or not at all.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    names = member_names(configs)
    training = _prepare(configs[0], vae, objective)
    totals = training.fresh_totals()
    directory = _free_directory(configs[0], out)
    members = []
    for config, name in zip(configs, names, strict=True):
        own = replace(training, config=config)
        _create(directory / name, own)
        members.append(Member(directory / name, own, own.fresh_state(), totals))
    _point_latest(directory)
    return _finish_many(directory, members)


def resume(directory: str | Path, vae: VAE | None = None, objective: Objective | None = None) -> Run:
    """Go on with an interrupted run, bit for bit as if it had never stopped.

    An objective or a model of your own has to be passed again: nothing that a run directory names is imported.

    Raises:
        UserError: no run, a damaged one, or data that is not what the run was trained on.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    directory = Path(directory)
    config, _ = read_config(directory / "config.json")
    training = _prepare_again(directory, config, vae, objective)
    *_, step = checkpoints.saved_steps(directory / "checkpoints")
    train(directory, [_member_again(directory, training, step, _abstract_items(training))])
    return _finish(directory, training)


def resume_many(directory: str | Path, vae: VAE | None = None, objective: Objective | None = None) -> list[Run]:
    """Go on with the interrupted runs of `fit_many`; arguments and errors as for `resume`."""
    directory = Path(directory)
    paths = member_directories(directory)
    configs = [read_config(path / "config.json")[0] for path in paths]
    if not paths or [path.name for path in paths] != member_names(configs):
        raise UserError(f"{directory} does not hold runs that were trained together: name the one to go on with.")
    going = {path: config for path, config in zip(paths, configs, strict=True) if not (path / FAILED).exists()}
    if not going:
        raise UserError(f"{directory}: every run in it came to a loss that is not finite; see their {FAILED}.")
    step = checkpoints.common_step([path / "checkpoints" for path in going])
    training = _prepare_again(paths[0], configs[0], vae, objective)
    items, members = _abstract_items(training), []
    for path, config in going.items():
        checkpoints.forget_after(path / "checkpoints", step)
        members.append(_member_again(path, replace(training, config=config), step, items))
    return _finish_many(directory, members)


def member_directories(directory: str | Path) -> list[Path]:
    """The run directories that `fit_many` made within a directory, in the order of their configurations."""
    found = [path.parent for path in Path(directory).glob("*/config.json") if path.parent.name != "latest"]
    configs = {path: read_config(path / "config.json")[0] for path in found}
    return sorted(found, key=lambda path: [getattr(configs[path], name) for name in SWEPT])


def load_run(directory: str | Path, vae: VAE | None = None) -> Run:
    """Open a run for sampling: reads arrays and JSON, executes nothing that the directory says.

    Args:
        directory: a run directory; nothing else is needed, not even the data set.
        vae: the model, where it was one of your own.

    Raises:
        UserError: no run directory, a damaged one, or one of another model.
    """
    directory = Path(directory)
    if members := member_directories(directory):
        raise UserError(f"{directory} holds {len(members)} runs: name one of them, as {members[0]}.")
    config, image_shape = read_config(directory / "config.json")
    vae = (vae or make_vae(config, image_shape)).clone(dtype=config.precision)
    which = "averaged_params" if config.ema_decay else "params"
    names, contexts = _read_labels(directory) if config.conditional else ((), None)
    abstract = {which: jax.eval_shape(lambda: init(vae, jax.random.key(0), image_shape, len(names)))}
    metrics = read_metrics(directory)
    step = _step_to_use(directory, metrics)
    params = checkpoints.restore(directory / "checkpoints", step, abstract)[which]
    try:
        examples = np.load(directory / "examples.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{directory / 'examples.npy'} cannot be read ({error}): the run is damaged.") from None
    return Run(directory, config, vae, params, step, metrics, examples, names, contexts)


def _step_to_use(directory: Path, metrics: list[dict[str, Any]]) -> int:
    """The step of the best checkpoint; where that is gone, the last one's, which is said."""
    steps, best = checkpoints.saved_steps(directory / "checkpoints"), best_record(metrics)
    if best is not None and best["step"] in steps:
        return best["step"]
    missing = "no epoch is finished" if best is None else f"the best, of step {best['step']}, is gone"
    say(f"WARNING: {directory}: the parameters are those of its last checkpoint, step {steps[-1]}: {missing}.")
    return steps[-1]


def _read_labels(directory: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes of a conditional model, and the one-hot labels of the examples."""
    path = directory / _LABELS
    try:
        content = json.loads(path.read_text())
        return tuple(content["class_names"]), one_hot(content["examples"], len(content["class_names"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): the run is damaged.") from None


def load_data(run: Run, binarize: Binarize | None = None, binarize_seed: int = 0) -> tuple[ImageData, ImageData]:
    """The training and test images of a run.

    Args:
        binarize, binarize_seed: as in `Config`, where the images are to be binarised otherwise than for the training.

    Raises:
        UserError: they cannot be had, or are not those that the run was trained on.
    """
    train_set, test_set = load_splits(run.config)
    _check_data(run.directory, run.config, train_set, test_set)
    if binarize is not None:
        return load_splits(replace(run.config, binarize=binarize, binarize_seed=binarize_seed))
    return train_set, test_set


def _check_data(directory: Path, config: Config, train_set: ImageData, test_set: ImageData) -> None:
    if _data_sums(train_set, test_set) != json.loads((directory / "provenance.json").read_text())["data"]:
        raise UserError(f"{config.dataset} is not the data that {directory} was trained on; see its provenance.json.")


def _prepare(config: Config, vae: VAE | None, objective: Objective | None) -> Training:
    """Load the data and build model, objective and optimiser; writes nothing."""
    train_set, test_set = load_splits(config)
    count, *image_shape = train_set.images.shape
    if list(test_set.images.shape[1:]) != image_shape:
        raise UserError(f"{config.dataset}: train images are {image_shape}, test images {test_set.images.shape[1:]}.")
    names = class_names(train_set) if config.conditional else ()
    if config.conditional and not names:
        raise UserError(f"--conditional needs labels, and {config.dataset} has none.")
    as_batch(test_set, names)  # refuses other labels
    batch_size = min(config.batch_size, count)
    steps_per_epoch = count // batch_size
    named = make_objective(config, steps_per_epoch, count) if objective is None else lambda beta: objective

    def objective_at(beta: Any) -> Objective:
        return DynamicallyBinarized(named(beta)) if config.binarize == "dynamic" else named(beta)

    if vae is None:
        vae = make_vae(config, tuple(image_shape), train_set.images)
    vae = vae.clone(dtype=config.precision)
    if vae.likelihood is Bernoulli and config.binarize == "none" and not is_binary(train_set.images):
        say(
            "Bernoulli likelihood on grey values: the loss is their cross-entropy, in nats per image. It trains well, "
            "but is no density; compare it only with the same loss. --likelihood names others."
        )
    total_steps = config.epochs * steps_per_epoch
    refuse_unfinished(objective, total_steps)

    def tx_at(learning_rate: Any) -> optax.GradientTransformation:
        return make_optimizer(
            config.optimizer,
            learning_rate,
            total_steps,
            warmup_steps=min(config.warmup_steps, total_steps // 10),
            schedule=config.schedule,
            clip_norm=config.clip_norm,
        )

    return Training(config, vae, objective_at, tx_at, train_set, test_set, batch_size, steps_per_epoch, names)


def _prepare_again(directory: Path, config: Config, vae: VAE | None, objective: Objective | None) -> Training:
    """The training of a run directory, on the data that it was trained on."""
    if config.has_own_objective and objective is None:
        raise UserError(f"{directory} was trained with an objective of its own: add --objective {config.objective}.")
    training = _prepare(config, vae, objective)
    _check_data(directory, config, training.train, training.test)
    return training


def _abstract_items(training: Training) -> dict[str, Any]:
    """Shapes and types of a checkpoint, the same for all members: tracing the objective takes its time."""
    return jax.eval_shape(lambda: checkpoint_items(training.fresh_state(), training.fresh_totals()))


def _member_again(directory: Path, training: Training, step: int, abstract_items: dict[str, Any]) -> Member:
    """A run as its checkpoint left it; what was reported after that is dropped."""
    items = checkpoints.restore(directory / "checkpoints", step, abstract_items)
    rest = items["optimizer"]
    _, train_key, _ = training.keys()
    state = TrainState(rest["step"], items["params"], rest["opt_state"], items.get("averaged_params"), train_key)
    keep_metrics_until(directory, int(state.step))
    return Member(directory, training, state, rest["totals"])


def _data_sums(train_set: ImageData, test_set: ImageData) -> dict[str, Any]:
    """What tells one data set from another: the sums of its pixels."""
    return {"train": train_set.provenance["sha256"], "test": test_set.provenance["sha256"]}


def _create(directory: Path, training: Training) -> None:
    """Make the run directory: configuration, provenance and a few test images."""
    directory.mkdir(parents=True, exist_ok=True)
    config = training.config
    data_dir = config.data_dir and str(Path(config.data_dir).expanduser().absolute())
    anywhere = replace(config, dataset=absolute(config.dataset), data_dir=data_dir)
    write_config(directory / "config.json", anywhere, training.train.images.shape[1:])
    device = jax.devices()[0]
    provenance = {
        "command": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data": _data_sums(training.train, training.test),
        "sources": {"train": training.train.provenance, "test": training.test.provenance},
        "objective": repr(training.objective(config.beta)),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")}
        | {"flax_vae": __version__, "python": platform.python_version()},
    }
    (directory / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    np.save(directory / "examples.npy", training.test.images[:_EXAMPLES])
    if training.class_names:
        assert training.test.labels is not None
        labels = training.test.labels[:_EXAMPLES].tolist()
        content = {"class_names": training.class_names, "examples": labels}
        (directory / _LABELS).write_text(json.dumps(content, indent=2) + "\n")


def _free_directory(config: Config, out: str | Path | None) -> Path:
    directory = Path(out or f"runs/{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(
            f"{directory} already holds something: name another --out, or go on with a run by --resume DIR."
        )
    return directory


def _point_latest(directory: Path) -> None:
    """Let `latest`, beside the directory, be another name of it.

    The link is made under a name of this process and moved into place, since another run may start at the same time. It
    is a convenience: where it cannot be made, the run goes on.
    """
    directory = directory.resolve()
    latest, mine = directory.with_name("latest"), directory.with_name(f".latest-{os.getpid()}")
    if directory == latest or (latest.exists() and not latest.is_symlink()):
        return
    with contextlib.suppress(OSError):
        mine.symlink_to(directory.name, target_is_directory=True)
        mine.replace(latest)


def _finish(directory: Path, training: Training) -> Run:
    """Look at the result."""
    run = load_run(directory, training.vae)
    draw_pictures(
        run.directory / "pictures", run.vae, run.params, training.test, run.metrics, training.keys()[2], run.class_names
    )
    return run


def _finish_many(directory: Path, members: Sequence[Member]) -> list[Run]:
    """Train to the end, look at the results, and sum them up."""
    failed = train(directory, members)
    runs = [_finish(member.directory, member.training) for i, member in enumerate(members) if i not in failed]
    summary = [
        (read_config(path / "config.json")[0], None if (path / FAILED).exists() else read_metrics(path)[-1])
        for path in member_directories(directory)
    ]
    write_summary(directory, summary)
    return runs
