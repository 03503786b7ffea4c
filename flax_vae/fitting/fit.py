"""Train one run or several, and resume them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import flax.linen as nn

from flax_vae.evaluation.pictures import draw_pictures
from flax_vae.fitting.build import Training, build
from flax_vae.fitting.loop import train
from flax_vae.fitting.members import Member, abstract_items, restore_member
from flax_vae.fitting.report import write_summary
from flax_vae.metrics.objective_means import make_evaluate
from flax_vae.objectives import Objective
from flax_vae.runs import checkpoints
from flax_vae.runs.config import Config, member_names
from flax_vae.runs.data import refuse_other_data
from flax_vae.runs.directory import RunDirectory, free_directory
from flax_vae.runs.run import Run, load_run
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.files import new_directory
from flax_vae.system.processes import detect_lost_processes, run_in_first_process


def fit(
    config: Config, out: str | Path | None = None, vae: nn.Module | None = None, objective: Objective | None = None
) -> Run:
    """Train a model from the start and write its run directory.

    Args:
        config: model, data, objective and recipe.
        out: a directory that does not exist yet or is empty; default `runs/<preset>-<time>`.
        vae: a model of your own instead of the preset's.
        objective: a function of your own instead of the one that `config.objective` names.

    Raises:
        UserError: bad input, before anything is written; or a loss that is NaN or infinite.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    (run,) = _start(free_directory(config, out), {"": config}, vae, objective)
    return run


def fit_many(
    configs: Sequence[Config],
    out: str | Path | None = None,
    vae: nn.Module | None = None,
    objective: Objective | None = None,
) -> list[Run]:
    """Train configurations that differ in their seed, beta or learning rate, in one program.

    Each becomes a run directory of its own within `out`, named after what differs, beside `summary.json`: mean and
    standard deviation over the seeds. One that diverges stops, and the others go on.

    Args:
        configs, vae, objective: as for `fit`; the data, too, are shared.
        out: a directory that does not exist yet or is empty; default `runs/<preset>-<time>`.

    Returns:
        The runs that finished, in the order of their configurations.

    Raises:
        UserError: as for `fit`, or configurations that differ in something else, or not at all.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    members = dict(zip(member_names(configs), configs, strict=True))
    whole = free_directory(configs[0], out)
    runs = _start(whole, members, vae, objective)
    _sum_up(whole)
    return runs


def _start(
    whole: RunDirectory, configs: Mapping[str, Config], model: nn.Module | None, objective: Objective | None
) -> list[Run]:
    """Train configurations, each in a directory of this name within the whole."""
    training = build(next(iter(configs.values())), model, objective, len(configs))
    totals = training.fresh_totals()  # traces the objective, so that one that cannot train is refused here
    trainings = {name: replace(training, config=config) for name, config in configs.items()}

    def create() -> None:
        with new_directory(whole.path) as folder:
            for name, own in trainings.items():
                RunDirectory(folder / name).create(own.config, own.data, repr(own.objective_at(own.config.beta)))
        whole.point_latest()

    run_in_first_process(create)
    with whole.locked():
        members = [
            Member(RunDirectory(whole.path / name), own, own.fresh_state(), totals) for name, own in trainings.items()
        ]
        return _train(whole, members)


def resume(
    directory: str | Path,
    vae: nn.Module | None = None,
    objective: Objective | None = None,
    devices: int | None = None,
    fsdp: int | None = None,
) -> Run:
    """Resume an interrupted run, bit for bit as if it had never stopped; to rounding on other devices.

    Args:
        directory: of the run.
        vae, objective: your own, again: nothing that a run directory names is imported.
        devices, fsdp: instead of those that the run was started with.

    Raises:
        UserError: no run, a damaged one, or data that is not what the run was trained on.
        Interrupted: by SIGINT or SIGTERM, after saving.
    """
    run = RunDirectory(Path(directory))
    run.config()  # says best what is not a run
    (resumed,) = _resume(run, [run], vae, objective, devices, fsdp)
    return resumed


def resume_many(
    directory: str | Path,
    vae: nn.Module | None = None,
    objective: Objective | None = None,
    devices: int | None = None,
    fsdp: int | None = None,
) -> list[Run]:
    """Resume the interrupted runs of `fit_many`; arguments and errors as for `resume`."""
    whole = RunDirectory(Path(directory))
    runs = whole.members()
    if not runs or [run.path.name for run in runs] != member_names([run.config() for run in runs]):
        raise UserError(f"{whole} does not hold runs that were trained together: name the one to resume.")
    good = [run for run in runs if not run.failure_file.exists()]
    if not good:
        raise UserError(f"{whole}: every run in it diverged; see their {runs[0].failure_file.name}.")
    resumed = _resume(whole, good, vae, objective, devices, fsdp)
    _sum_up(whole)
    return resumed


def _resume(
    whole: RunDirectory,
    runs: Sequence[RunDirectory],
    model: nn.Module | None,
    objective: Objective | None,
    devices: int | None,
    fsdp: int | None,
) -> list[Run]:
    """Go on from the last checkpoint of each."""
    configs = [run.config().on_devices(devices, fsdp) for run in runs]
    if configs[0].has_own_objective and objective is None:
        raise UserError(f"{whole} was trained with an objective of its own: add --objective {configs[0].objective}.")
    with whole.locked():
        training = build(configs[0], model, objective, len(configs))
        refuse_other_data(training.data, runs[0].data_checksums(), str(runs[0]))
        trainings = [replace(training, config=config) for config in configs]
        while (members := _restored(runs, trainings)) is None:
            pass  # without a checkpoint that is damaged
        return _train(whole, members)


def _restored(runs: Sequence[RunDirectory], trainings: Sequence[Training]) -> list[Member] | None:
    """The members at the last step that all have a checkpoint of; None where one was damaged, and is set aside now.

    Those that stopped early stay at their own last step, of which the others may have no checkpoint any more. Where one
    was ended before its first checkpoint, all begin again.
    """
    going = [run for run in runs if not run.stopped_early(run.config())]
    if going:
        saved = [checkpoints.saved_steps(run.checkpoints) for run in going]
        common = set.intersection(*map(set, saved))
        if not common and all(saved):
            raise UserError(f"{going[0].path.parent}: its runs have no checkpoint of one step; start them again.")
        for run in going:
            run_in_first_process(partial(checkpoints.forget_after, run.checkpoints, max(common, default=0)))
    items, members = abstract_items(trainings[0]), []
    for run, training in zip(runs, trainings, strict=True):
        steps = checkpoints.saved_steps(run.checkpoints)
        if not steps:
            members.append(_begun_again(run, training))
            continue
        step = steps[-1]
        try:
            members.append(restore_member(run, training, step, items))
        except checkpoints.Damaged as damaged:
            if len(checkpoints.saved_steps(run.checkpoints)) == 1:
                raise UserError(f"{damaged} It is the only one: start the run again.") from None
            run_in_first_process(partial(_set_aside, run, step, damaged))
            return None
    return members


def _set_aside(run: RunDirectory, step: int, damaged: checkpoints.Damaged) -> None:
    aside = checkpoints.set_aside(run.checkpoints, step)
    log(f"WARNING: {damaged} It is called {aside.name} now, and the training goes on from the one before.")


def _begun_again(run: RunDirectory, training: Training) -> Member:
    """A member that was ended before its first checkpoint was written."""
    if (epochs := len(run.metrics())) > 2:
        raise UserError(
            f"{run} has {epochs} epochs in its metrics.jsonl and no checkpoint: they were moved or deleted."
        )
    run_in_first_process(partial(run.keep_metrics_until, 0))
    return Member(run, training, training.fresh_state(), training.fresh_totals())


def _train(whole: RunDirectory, members: Sequence[Member]) -> list[Run]:
    """Train to the end, and look at the results."""
    with detect_lost_processes(whole.advice):
        diverged = train(whole, members)
        return [_finish(member.directory, member.training) for i, member in enumerate(members) if i not in diverged]


def _finish(directory: RunDirectory, training: Training) -> Run:
    """Draw the pictures; with a validation set, measure the test set, this once."""
    run = load_run(directory.path, training.model)
    run_in_first_process(partial(_look, run, directory, training))
    return run


def _look(run: Run, directory: RunDirectory, training: Training) -> None:
    data, (*_, key) = training.data, training.keys()
    if data.validation is not None:
        objective = training.objective_at(training.config.beta)
        evaluate = make_evaluate(run.vae, objective, training.batch_size)
        found = evaluate(run.params, data.batch(data.test), key, training.total_steps)
        directory.write_test({"step": run.step} | found)
        log(f"{directory}: test loss {found['loss']:.2f} at the best validation loss, step {run.step}.")
    draw_pictures(directory.pictures, run, data.test, key)


def _sum_up(whole: RunDirectory) -> None:
    """Mean and deviation over the seeds of an ensemble."""
    found = [(run.config(), None if run.failure_file.exists() else run.metrics()[-1]) for run in whole.members()]
    run_in_first_process(partial(write_summary, whole.path, found))
