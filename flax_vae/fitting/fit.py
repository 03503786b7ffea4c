"""Train one run or several, and resume them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import optax

from flax_vae.calls import describe
from flax_vae.data import ARRAYS, write_arrays
from flax_vae.evaluation.pictures import draw_pictures
from flax_vae.evaluation.run import Run
from flax_vae.fitting.build import (
    Own,
    build,
    description_of,
    description_of_stream,
    fitted_to,
    given_data,
    open_again,
    own_parts,
    refuse_other_start,
    refuse_unknown_monitor,
    starting_from,
)
from flax_vae.fitting.loop import Callback, train
from flax_vae.fitting.members import Member, member_trainings, parts_of_members, refuse_unresumable, restore_members
from flax_vae.fitting.report import write_summary
from flax_vae.fitting.training import Training
from flax_vae.metrics.objective_means import make_evaluate
from flax_vae.models.binding import join_objective
from flax_vae.objectives import Objective
from flax_vae.runs.checkpoints import stream_state
from flax_vae.runs.config import PARTS, Config
from flax_vae.runs.data import Given, refuse_other_data
from flax_vae.runs.directory import RunDirectory, free_directory
from flax_vae.runs.members import member_names, swept_settings
from flax_vae.runs.models import opened
from flax_vae.runs.records import Record
from flax_vae.runs.run import StoredRun, read_directory, refuse_own_data
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.files import new_directory
from flax_vae.system.processes import detect_lost_processes, run_in_first_process
from flax_vae.system.settings import by_default


@by_default
def fit(
    config: Config | None = None,
    out: str | Path | None = None,
    *,
    data: Any = None,
    labels: Any = None,
    model: nn.Module | None = None,
    objective: Objective | None = None,
    optimizer: optax.GradientTransformation | None = None,
    callbacks: Sequence[Callback] = (),
    init: StoredRun | None = None,
) -> Run:
    """Train a model and write its run directory.

    Args:
        config: model, data, objective and recipe; the default ones if None.
        out: a new or empty directory; default `runs/<preset>-<time>`.
        data: images "n h w" or "n h w c" instead of the configuration's data set: bytes, booleans or floats in [0, 1];
            vectors "n v": floats, with NaN for missing values, or counts; a tuple or a dictionary of these, the views
            that a model of your own takes; or `Examples`. A tenth is held out, and all are stored in the run directory,
            for resuming and evaluating. Or a stream, of which only the held-out examples are stored: an iterable of
            batches, such as a Grain data set, or a `Stream`.
        labels: one class per example, a non-negative integer or a string; or None.
        model: a model of your own instead of the preset's.
        objective: an objective of your own instead of the configuration's.
        optimizer: any Optax transformation instead of the configuration's optimiser, schedule and clipping.
        callbacks: functions `(epoch, metrics, state)`, called after the evaluation and the checkpoint of each epoch, in
            the first process. `epoch` counts from 1, `metrics` is the record of metrics.jsonl, and `state` the
            `TrainState`, which is valid during the call only.
        init: a run from whose parameters the training starts, instead of random ones.

    Returns:
        The finished run, with its best parameters.

    Raises:
        UserError: bad input, before anything is written; or the loss is NaN or infinite.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    own = own_parts(model, objective, optimizer)
    refuse_other_start(init, callbacks)
    (config,) = _configs([Config() if config is None else config], own)
    directory = free_directory(config, out)
    configs, given = given_data({"": config}, directory, data, labels)
    (run,) = _start(directory, configs, own, callbacks, init, given)
    return run


@by_default
def fit_many(
    configs: Sequence[Config],
    out: str | Path | None = None,
    *,
    data: Any = None,
    labels: Any = None,
    model: nn.Module | None = None,
    objective: Objective | None = None,
    optimizer: optax.GradientTransformation | None = None,
    init: StoredRun | None = None,
) -> list[Run]:
    """Train configurations that differ in seed, or in floats of the objective and the optimisation, in one program.

    The floats are `learning_rate`, `beta`, `kl_warmup_epochs`, `clip_norm`, `skip_norm`, `ema_decay`, and arguments of
    objective, optimiser and schedule: the weight of `infovae(weight=10)`, or of an objective of your own. If the
    configurations differ in more than seed, beta and learning rate, each combination of the other floats is compiled
    separately, and all members train one after another.

    Each gets its own run directory in `out`, named after the settings that differ, beside `summary.json` with the mean
    and standard deviation over the seeds. A training that diverges stops; the others continue.

    Args:
        configs: the configurations.
        out: a new or empty directory; default `runs/<preset>-<time>`.
        data, labels: as for `fit`; all members train on the same batches of a stream.
        model: a model of your own instead of the preset's.
        objective: an objective of your own instead of the configurations'.
        optimizer: any Optax transformation instead of the configurations' optimiser; the learning rate cannot differ.
        init: a run from whose parameters each training starts, instead of random ones.

    Returns:
        The finished runs, in the order of their configurations.

    Raises:
        UserError: as for `fit`, or configurations that differ in something else or not at all.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    own = own_parts(model, objective, optimizer)
    refuse_other_start(init, ())
    configs = _configs(configs, own)
    members = dict(zip(member_names(configs), configs, strict=True))
    directory = free_directory(configs[0], out)
    members, given = given_data(members, directory, data, labels)
    runs = _start(directory, members, own, (), init, given)
    run_in_first_process(write_summary, directory)
    return runs


@by_default
def resume(
    directory: str | Path,
    *,
    model: nn.Module | str | None = None,
    objective: Objective | str | None = None,
    optimizer: optax.GradientTransformation | str | None = None,
    callbacks: Sequence[Callback] = (),
    data: Any = None,
    **changes: Any,
) -> Run:
    """Resume an interrupted run, or train a finished one for more epochs.

    The result equals that of an uninterrupted run bit for bit; on other devices, up to rounding.

    Args:
        directory: the run directory.
        model: the model, or "my_module:make_model", if the run was started with one of your own: no code that a run
            directory names is imported.
        objective: likewise the objective, or "my_module:my_objective".
        optimizer: likewise the Optax transformation, or "my_module:my_optimizer".
        callbacks: as for `fit`.
        data: the stream, if the run was trained on one.
        **changes: settings of `Config` to change from here on, such as `epochs`, `learning_rate` or `dataset`, if the
            images have moved. They are recorded. A new schedule is evaluated at the step reached. `devices` and `fsdp`
            apply to this call only. Other parts of your own, such as `prior`, have to be named here again.

    Returns:
        The finished run, with its best parameters.

    Raises:
        UserError: not a run, a damaged one, other data than the run was trained on, or a setting that cannot change.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    run = RunDirectory(Path(directory))
    given = {"preset": model, "objective": objective, "optimizer": optimizer} | changes
    (resumed,) = _resume(run, {run: _resumed(run, optimizer, changes)}, {run: given}, callbacks, data)
    return resumed


@by_default
def resume_many(
    directory: str | Path,
    *,
    model: nn.Module | str | None = None,
    objective: Objective | str | None = None,
    optimizer: optax.GradientTransformation | str | None = None,
    data: Any = None,
    **changes: Any,
) -> list[Run]:
    """Resume the interrupted runs of `fit_many`; arguments and errors as for `resume`."""
    parent = RunDirectory(Path(directory))
    runs = parent.members()
    configs = [run.config() for run in runs]
    if not runs or [run.path.name for run in runs] != member_names(configs):
        raise UserError(f"{parent} does not hold runs that were trained together: name the one to resume.")
    if swept := [name for name in changes if name in swept_settings(configs)]:
        raise UserError(f"`{swept[0]}` cannot change: the members differ in it.")
    given = {"preset": model, "objective": objective, "optimizer": optimizer} | changes
    members = zip(runs, parts_of_members(given, configs), strict=True)
    good = {run: parts for run, parts in members if not run.failure_file.exists()}
    if not good:
        raise UserError(f"{parent}: all of its runs diverged; see their {runs[0].failure_file.name}.")
    changed = {run: _resumed(run, parts["optimizer"], changes) for run, parts in good.items()}
    resumed = _resume(parent, changed, good, (), data)
    run_in_first_process(write_summary, parent)
    return resumed


def _configs(configs: Sequence[Config], own: Own) -> list[Config]:
    """Return configurations that name the parts of the user's own.

    Raises:
        UserError: another value in place of a configuration, or of a list of them.
    """
    if isinstance(configs, Config):
        raise UserError("`configs` is a single configuration: pass a list of them, or call fit.")
    for config in configs:
        if not isinstance(config, Config):
            raise UserError(f"The configuration is a {type(config).__name__}, not a Config.")
    return [config.naming(*own) for config in configs]


def _resumed(run: RunDirectory, optimizer: Any, changes: Mapping[str, Any]) -> Config:
    """Return the configuration with which a run is resumed.

    Raises:
        UserError: a setting that cannot change, an optimiser that the run was not started with, or a data set of the
            user's own that is not passed again.
    """
    config = run.config()
    if "dataset" not in changes:
        refuse_own_data(str(run), config)
    if isinstance(optimizer, str):
        return config.resumed_with(optimizer=optimizer, **changes)
    if optimizer is not None and not config.has_own("optimizer"):
        raise UserError(f"{run} was trained with `optimizer` {config.optimizer}, which cannot change: leave it out.")
    return config.resumed_with(**changes)


def _start(
    directory: RunDirectory,
    configs: Mapping[str, Config],
    own: Own,
    callbacks: Sequence[Callback],
    init: StoredRun | None,
    given: Given | None,
) -> list[Run]:
    """Train configurations, each in the subdirectory of its name."""
    config = next(iter(configs.values()))
    training = build(config, own, len(configs), given)
    made_of: Record = {
        "model": description_of(config, own, training),
        "init": None,
        "stream": description_of_stream(training),
    }
    if init is not None:
        training = starting_from(training, init)
        made_of["init"] = {"run": str(init.directory.absolute() if init.directory else init.name), "step": init.step}
    totals = training.zero_totals()  # traces the objective, so that one that cannot train is refused here
    refuse_unknown_monitor(training, totals)
    monitor = training.config.monitor
    fitted = [replace(fitted_to(config, training.data), monitor=monitor) for config in configs.values()]
    trainings = dict(zip(configs, member_trainings(training, fitted), strict=True))

    def create() -> None:
        with new_directory(directory.path) as folder:
            if given is not None:
                write_arrays(folder / ARRAYS, given.train, given.test)
            for name, member in trainings.items():
                made_of["objective"] = describe(member.objective_at(member.config.beta))
                RunDirectory(folder / name).create(member.config, member.data, made_of)
        directory.point_latest()

    run_in_first_process(create)
    with directory.locked():
        members = [
            Member(RunDirectory(directory.path / name), member, member.initial_state(), totals)
            for name, member in trainings.items()
        ]
        return _train(directory, members, callbacks)


def _resume(
    directory: RunDirectory,
    configs: Mapping[RunDirectory, Config],
    given: Mapping[RunDirectory, Mapping[str, Any]],
    callbacks: Sequence[Callback],
    data: Any,
) -> list[Run]:
    """Resume runs from their last checkpoints, with the user's own parts that are given for each run, by kind."""
    run, config = next(iter(configs.items()))
    kinds = [kind for kind in PARTS if config.has_own(kind) or kind in ("preset", "objective")]
    with_own = [opened(str(directory), config, given[run], kinds) for run, config in configs.items()]
    parts = (given[run][kind] for kind in ("preset", "objective", "optimizer"))
    own = Own(*(None if isinstance(part, str) else part for part in parts))
    for member, changed in configs.items():
        refuse_unresumable(member, changed)
    stream = open_again(run, data, with_own[0])
    with directory.locked():
        training = build(with_own[0], own, len(configs), stream)
        refuse_other_data(training.data, run.data_checksums(), str(run))
        trainings = zip(configs.items(), member_trainings(training, with_own), strict=True)
        for member, changed in configs.items():
            run_in_first_process(member.change, changed)
        members = restore_members({run: replace(each, config=config) for (run, config), each in trainings})
        if training.data.feed is not None and (step := int(members[0].state.step)):
            training.data.feed.restore(stream_state(run.checkpoints, step))
        return _train(directory, members, callbacks)


def _train(directory: RunDirectory, members: Sequence[Member], callbacks: Sequence[Callback]) -> list[Run]:
    """Train to the end, then draw pictures and evaluate; return the runs that finished."""
    with detect_lost_processes(directory.advice):
        try:
            diverged = train(directory, members, callbacks)
        except OSError as error:  # such as a full disk
            raise UserError(f"{error.filename or directory}: {error.strerror or error}. {directory.advice}") from error
        return [_finish(member.directory, member.training) for i, member in enumerate(members) if i not in diverged]


def _finish(directory: RunDirectory, training: Training) -> Run:
    """Draw the pictures and, if there is a validation set, evaluate on the test set once."""
    run = Run(**vars(read_directory(directory, training.model)) | {"dataset": training.config.dataset})

    def draw_and_evaluate() -> None:
        data, key = training.data, training.keys.test
        if data.validation is not None:
            evaluate = make_evaluate(run.model, training.objective_at(training.config.beta), training.batch_size)
            tree = join_objective(run.params, run.objective_params)
            means = evaluate(tree, data.batch(data.test), key, training.total_steps)
            directory.write_test({"step": run.step} | means)
            log(f"{directory}: test loss {means['loss']:.2f} at the best validation loss, step {run.step}.")
        draw_pictures(directory.pictures, run, None if data.held_out is None else data.test, key)

    run_in_first_process(draw_and_evaluate)
    return run
