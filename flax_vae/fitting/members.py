"""The members of an ensemble: their trainings, and their states, new or restored from checkpoints.

Members have model, data and recipe in common; `flax_vae.runs.members` lists the settings that may differ. A single run
is an ensemble of one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import is_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_vae.calls import Call, parse
from flax_vae.fitting.build import make_objective, refuse_other_optimizer
from flax_vae.fitting.training import Training
from flax_vae.models.binding import split_tree
from flax_vae.objectives import Metrics
from flax_vae.objectives.schedules import refuse_unfinished
from flax_vae.runs import checkpoints
from flax_vae.runs.config import Config
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.members import differing, step_numbers
from flax_vae.system.errors import UserError
from flax_vae.system.processes import run_in_first_process
from flax_vae.training.step import TrainState


class Member(NamedTuple):
    """A training with its run directory and current state.

    Attributes:
        directory: the run directory.
        training: the training, with the member's settings.
        state: the train state.
        totals: sums of the metrics since the last record of an epoch.
    """

    directory: RunDirectory
    training: Training
    state: TrainState
    totals: Metrics

    @property
    def epochs_reported(self) -> int:
        """The number of epochs trained and evaluated."""
        unreported = any(np.any(total) for total in self.totals.values())
        return (int(self.state.step) - unreported) // self.training.steps_per_epoch


def member_trainings(training: Training, configs: Sequence[Config]) -> list[Training]:
    """Return the training of each member.

    Args:
        training: the training of the first member.
        configs: the configurations of all members.

    Raises:
        UserError: the objective or the optimiser of a member cannot train, or the arrays of its state or its metrics
            differ from those of the first member.
    """
    numbers = step_numbers(configs)
    of_step = [training, *(_with_step_of(training, configs[numbers.index(i)]) for i in range(1, max(numbers) + 1))]
    _refuse_other_arrays(of_step)
    return [replace(of_step[number], config=config) for number, config in zip(numbers, configs, strict=True)]


def _with_step_of(training: Training, config: Config) -> Training:
    """Return the training of another member, with an objective and an optimiser of its own."""
    objective = training.objective
    if config.objective != training.config.objective:
        objective = make_objective(config, training.steps_per_epoch, training.num_images)
        refuse_unfinished(objective, training.total_steps)
    member = replace(training, config=config, objective=objective)
    if config.has_own("optimizer"):
        refuse_other_optimizer(member)
    return member


def _refuse_other_arrays(trainings: Sequence[Training]) -> None:
    """Raise UserError unless all trainings have the same metrics, and the same arrays in their states."""
    if len(trainings) == 1:
        return
    found = [jax.tree.flatten((each.state_shapes, sorted(each.zero_totals()))) for each in trainings]
    for training, arrays in zip(trainings, found, strict=True):
        if arrays != found[0]:
            values, others = differing([trainings[0].config, training.config])
            settings = " and ".join(f"`{name}` {values[name]:g} and {others[name]:g}" for name in values)
            raise UserError(
                f"Members with {settings} cannot train in one ensemble, because the arrays of their states or the "
                "metrics of their objectives differ: train them one after another."
            )


def parts_of_members(given: Mapping[str, Any], configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Return the user's own parts with which to resume each member, with the arguments that it was trained with.

    Args:
        given: by kind, the text that imports a part, a value, or None.
        configs: the configurations of the members.

    Raises:
        UserError: the members differ in arguments of a part that is given as a value, or with other arguments.
    """
    parts = [dict(given) for _ in configs]
    for kind in ("objective", "optimizer"):
        part, trained = given[kind], [parse(getattr(config, kind)) for config in configs]
        if part is None or all(call == trained[0] for call in trained):
            continue
        call, first = parse(part) if isinstance(part, str) else None, trained[0]
        if call is None or not first.is_importable or call not in (Call(call.name), replace(first, name=call.name)):
            advice = f"pass {first.name} without arguments" if first.is_importable else "leave it out"
            raise UserError(f"The members differ in arguments of `{kind}`: {advice}.")
        for member, each in zip(parts, trained, strict=True):
            member[kind] = str(replace(each, name=call.name))
    return parts


def refuse_unresumable(run: RunDirectory, config: Config) -> None:
    """Raise UserError if this process cannot resume a run with a configuration."""
    if run.provenance().get("objective", "") is None:
        raise UserError(f"{run} was trained by a loop of your own, and has no state to resume: use fit(init=run).")
    trained, now = run.random_numbers(), jax.config.jax_default_prng_impl  # type: ignore[attr-defined]
    if trained != now:
        raise UserError(f"{run} draws {trained} numbers, but jax_default_prng_impl is {now}: set it to {trained}.")
    if (epochs := len(run.metrics())) > config.epochs:
        raise UserError(f"`epochs` {config.epochs}: {run} has been trained for {epochs} epochs already.")


def checkpoint_items(state: TrainState, totals: Metrics) -> dict[str, Any]:
    """Return the trees of a checkpoint.

    The parameters are separate, for sampling, with the collections if there are any. The key of the training is not
    saved, since it follows from the seed. Keys in the state of an optimiser are saved as integers.
    """
    opt_state = jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state.opt_state)
    items = {
        "params": state.tree,
        "optimizer": {"step": state.step, "skips": state.skips, "opt_state": opt_state, "totals": totals},
    }
    best, last = state.best_params, jax.tree.leaves(state.tree)
    if all(map(is_, jax.tree.leaves(best), last)):
        return items
    return items | {"averaged_params": best}  # averaged by the training, or by a schedule-free optimiser


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def restore_members(trainings: Mapping[RunDirectory, Training]) -> list[Member]:
    """Return the members at the last step for which all have a checkpoint; later checkpoints and records are deleted.

    Members that early stopping has ended keep their own last step. If one was interrupted before its first checkpoint,
    all start again. A damaged checkpoint is set aside, and the one before it used.

    Raises:
        UserError: there is no common step, or the only checkpoint of a run is damaged.
    """
    # Equal for all members, so computed once: tracing the objective is slow.
    first = next(iter(trainings.values()))
    state = first.state_shapes
    items = jax.eval_shape(lambda state: checkpoint_items(state, first.zero_totals()), state)
    while True:
        _forget_uncommon([run for run, training in trainings.items() if not run.stopped_early(training.config)])
        members = [_restore(run, training, items, state.opt_state) for run, training in trainings.items()]
        if None not in members:
            return [member for member in members if member]


def _forget_uncommon(runs: Sequence[RunDirectory]) -> None:
    """Delete the checkpoints after the last step for which all runs have one."""
    saved = [checkpoints.saved_steps(run.checkpoints) for run in runs]
    common = set.intersection(*map(set, saved)) if saved else set[int]()
    if saved and all(saved) and not common:
        raise UserError(f"{runs[0].path.parent}: its runs have no checkpoint of the same step; start them again.")
    for run in runs:
        run_in_first_process(checkpoints.forget_after, run.checkpoints, max(common, default=0))


def _restore(run: RunDirectory, training: Training, items: dict[str, Any], opt_state: Any) -> Member | None:
    """Return a member at its last checkpoint; None if that was damaged and has been set aside.

    Args:
        run: the member's directory.
        training: its training.
        items: the trees of its checkpoints, as shapes.
        opt_state: the state of its optimiser, as shapes.
    """
    steps = checkpoints.saved_steps(run.checkpoints)
    if not steps:
        return _start_again(run, training)
    try:
        trees = checkpoints.restore(run.checkpoints, steps[-1], items)
    except checkpoints.Damaged as damaged:
        if len(steps) == 1:
            raise UserError(f"{damaged} It is the only one: start the run again.") from None
        run_in_first_process(checkpoints.set_aside, run.checkpoints, steps[-1], damaged)
        return None
    rest, (params, collections) = trees["optimizer"], split_tree(trees["params"])
    averaged = split_tree(trees["averaged_params"]) if training.config.ema_decay else (None, None)
    key, skips = training.keys.train, rest["skips"]
    opt_state = jax.tree.map(
        lambda shape, leaf: jax.random.wrap_key_data(leaf) if _is_key(shape) else leaf, opt_state, rest["opt_state"]
    )
    state = TrainState(rest["step"], params, opt_state, averaged[0], skips, key, collections, averaged[1])
    member = Member(run, training, state, rest["totals"])
    run_in_first_process(run.keep_metrics_until, member.epochs_reported * training.steps_per_epoch)
    return member


def _start_again(run: RunDirectory, training: Training) -> Member:
    """Return a member that was interrupted before its first checkpoint."""
    if init := run.provenance().get("init"):
        raise UserError(f"{run} has no checkpoint yet, and starts from {init['run']}: start it again by fit(init=run).")
    if (epochs := len(run.metrics())) > 2:
        raise UserError(
            f"{run} has {epochs} epochs in its metrics.jsonl but no checkpoint: checkpoints were moved or deleted."
        )
    run_in_first_process(run.keep_metrics_until, 0)
    return Member(run, training, training.initial_state(), training.zero_totals())
