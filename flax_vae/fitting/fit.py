"""Train one run or several, and resume them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax.linen as nn

from flax_vae.calls import describe
from flax_vae.evaluation.pictures import draw_pictures
from flax_vae.evaluation.run import Run
from flax_vae.fitting.build import build
from flax_vae.fitting.loop import train
from flax_vae.fitting.members import Member, member_names, restore_members
from flax_vae.fitting.report import write_summary
from flax_vae.fitting.training import Training
from flax_vae.metrics.objective_means import make_evaluate
from flax_vae.models.binding import join_objective
from flax_vae.objectives import Objective
from flax_vae.runs.config import PARTS, SWEPT, Config
from flax_vae.runs.data import refuse_other_data
from flax_vae.runs.directory import RunDirectory, free_directory
from flax_vae.runs.models import model_of, opened
from flax_vae.runs.run import read_directory
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
    model: nn.Module | None = None,
    objective: Objective | None = None,
) -> Run:
    """Train a model and write its run directory.

    Args:
        config: model, data, objective and recipe; the default ones if None.
        out: a new or empty directory; default `runs/<preset>-<time>`.
        model: a model of your own instead of the preset's.
        objective: an objective of your own instead of the configuration's.

    Returns:
        The finished run, with its best parameters.

    Raises:
        UserError: bad input, before anything is written; or the loss is NaN or infinite.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    config = (config or Config()).naming(model, objective)
    (run,) = _start(free_directory(config, out), {"": config}, model, objective)
    return run


@by_default
def fit_many(
    configs: Sequence[Config],
    out: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    objective: Objective | None = None,
) -> list[Run]:
    """Train configurations that differ in their seed, beta or learning rate, in one program.

    Each gets its own run directory in `out`, named after what differs, beside `summary.json` with the mean and standard
    deviation over the seeds. A diverging one stops; the others continue.

    Args:
        configs: the configurations.
        out: a new or empty directory; default `runs/<preset>-<time>`.
        model: a model of your own instead of the preset's.
        objective: an objective of your own instead of the configurations'.

    Returns:
        The finished runs, in the order of their configurations.

    Raises:
        UserError: as for `fit`, or configurations that differ in something else or not at all.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    configs = [config.naming(model, objective) for config in configs]
    members = dict(zip(member_names(configs), configs, strict=True))
    directory = free_directory(configs[0], out)
    runs = _start(directory, members, model, objective)
    run_in_first_process(write_summary, directory)
    return runs


@by_default
def resume(
    directory: str | Path,
    *,
    model: nn.Module | str | None = None,
    objective: Objective | str | None = None,
    **changes: Any,
) -> Run:
    """Resume an interrupted run, or train a finished one for more epochs.

    The result equals that of an uninterrupted run bit for bit; on other devices, up to rounding.

    Args:
        directory: the run directory.
        model: the model, or "my_module:make_model", if the run was started with one of your own: no code that a run
            directory names is imported.
        objective: likewise the objective, or "my_module:my_objective".
        **changes: settings of `Config` to change from here on, such as `epochs`, `learning_rate` or `dataset`, if the
            images have moved. They are recorded. A new schedule is evaluated at the step reached. `devices` and `fsdp`
            hold this time only. Other parts of your own, such as `prior` or `optimizer`, are named again here.

    Returns:
        The finished run, with its best parameters.

    Raises:
        UserError: not a run, a damaged one, other data than the run was trained on, or a setting that cannot change.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    run = RunDirectory(Path(directory))
    own = {"preset": model, "objective": objective}
    (resumed,) = _resume(run, {run: run.config().resumed_with(**changes)}, own | changes)
    return resumed


@by_default
def resume_many(
    directory: str | Path,
    *,
    model: nn.Module | str | None = None,
    objective: Objective | str | None = None,
    **changes: Any,
) -> list[Run]:
    """Resume the interrupted runs of `fit_many`; arguments and errors as for `resume`."""
    parent = RunDirectory(Path(directory))
    runs = parent.members()
    if not runs or [run.path.name for run in runs] != member_names([run.config() for run in runs]):
        raise UserError(f"{parent} does not hold runs that were trained together: name the one to resume.")
    if swept := [name for name in SWEPT if name in changes]:
        raise UserError(f"`{swept[0]}` cannot change: members of an ensemble may differ in it.")
    good = {run: run.config().resumed_with(**changes) for run in runs if not run.failure_file.exists()}
    if not good:
        raise UserError(f"{parent}: all of its runs diverged; see their {runs[0].failure_file.name}.")
    resumed = _resume(parent, good, {"preset": model, "objective": objective} | changes)
    run_in_first_process(write_summary, parent)
    return resumed


def _start(
    directory: RunDirectory, configs: Mapping[str, Config], model: nn.Module | None, objective: Objective | None
) -> list[Run]:
    """Train configurations, each in the subdirectory of its name."""
    config = next(iter(configs.values()))
    training = build(config, model, objective, len(configs))
    described = None
    if config.has_own_model:
        parts = config.own_parts if model is None else {"preset": model}
        described = describe(model_of("", config, training.data.train.images.shape[1:], parts))
    totals = training.zero_totals()  # traces the objective, so that one that cannot train is refused here
    count = len(training.data.train.images)
    trainings = {name: replace(training, config=config.fitted_to(count)) for name, config in configs.items()}

    def create() -> None:
        with new_directory(directory.path) as folder:
            for name, member in trainings.items():
                about = describe(member.objective_at(member.config.beta))
                RunDirectory(folder / name).create(member.config, member.data, described, about)
        directory.point_latest()

    run_in_first_process(create)
    with directory.locked():
        members = [
            Member(RunDirectory(directory.path / name), member, member.initial_state(), totals)
            for name, member in trainings.items()
        ]
        return _train(directory, members)


def _resume(directory: RunDirectory, configs: Mapping[RunDirectory, Config], given: Mapping[str, Any]) -> list[Run]:
    """Resume runs from their last checkpoints, with the parts of the user's own that are given, by kind."""
    run, config = next(iter(configs.items()))
    kinds = [kind for kind in PARTS if config.has_own(kind) or kind in ("preset", "objective")]
    config = opened(str(directory), config, given, kinds)
    model, objective = (None if isinstance(part := given[kind], str) else part for kind in ("preset", "objective"))
    for member, changed in configs.items():
        if (epochs := len(member.metrics())) > changed.epochs:
            raise UserError(f"`epochs` {changed.epochs}: {member} has been trained for {epochs} epochs already.")
    with directory.locked():
        training = build(config, model, objective, len(configs))
        refuse_other_data(training.data, run.data_checksums(), str(run))
        for member, changed in configs.items():
            run_in_first_process(member.change, changed)
        trainings = {run: replace(training, config=config) for run, config in configs.items()}
        return _train(directory, restore_members(trainings))


def _train(directory: RunDirectory, members: Sequence[Member]) -> list[Run]:
    """Train to the end, then draw pictures and evaluate; return the runs that finished."""
    with detect_lost_processes(directory.advice):
        try:
            diverged = train(directory, members)
        except OSError as error:  # such as a full disk
            raise UserError(f"{error.filename or directory}: {error.strerror or error}. {directory.advice}") from error
        return [_finish(member.directory, member.training) for i, member in enumerate(members) if i not in diverged]


def _finish(directory: RunDirectory, training: Training) -> Run:
    """Draw the pictures and, if there is a validation set, evaluate on the test set once."""
    run = Run(**vars(read_directory(directory, training.model)))

    def draw_and_evaluate() -> None:
        data, key = training.data, training.keys.test
        if data.validation is not None:
            evaluate = make_evaluate(run.model, training.objective_at(training.config.beta), training.batch_size)
            tree = join_objective(run.params, run.objective_params)
            means = evaluate(tree, data.batch(data.test), key, training.total_steps)
            directory.write_test({"step": run.step} | means)
            log(f"{directory}: test loss {means['loss']:.2f} at the best validation loss, step {run.step}.")
        draw_pictures(directory.pictures, run, data.test, key)

    run_in_first_process(draw_and_evaluate)
    return run
