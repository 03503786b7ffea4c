"""The members of an ensemble: their names, and their states, new or restored from checkpoints.

Members have model, data and recipe in common; seed, beta and learning rate may differ. A single run is an ensemble of
one.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import is_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flax_vae.fitting.training import Training
from flax_vae.models.binding import split_tree
from flax_vae.objectives import Metrics
from flax_vae.runs import checkpoints
from flax_vae.runs.config import SWEPT, Config
from flax_vae.runs.directory import RunDirectory
from flax_vae.system.errors import UserError
from flax_vae.system.processes import run_in_first_process
from flax_vae.training.step import TrainState


class Member(NamedTuple):
    """A training with its run directory and current state.

    Attributes:
        directory: the run directory.
        training: the training, at the member's seed, beta and learning rate.
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


def member_names(configs: Sequence[Config]) -> list[str]:
    """Return the settings in which members differ, as names of their directories: "beta-2-seed-0".

    Raises:
        UserError: they differ in something else, or not at all.
    """
    first = configs[0]
    for config in configs:
        if replace(first, **{name: getattr(config, name) for name in SWEPT}) != config:
            raise UserError(f"Members of an ensemble may differ in {', '.join(SWEPT)} only.")
    names = [
        "-".join(f"{name.replace('_', '-')}-{value:g}" for name, value in settings) for settings in _differing(configs)
    ]
    if len(set(names)) < len(configs):
        raise UserError("Members of an ensemble must differ in their learning rate, beta or seed.")
    return names


def members_by_label(configs: Sequence[Config]) -> dict[str, list[int]]:
    """Group members that differ only in their seed: their numbers, by a label like "learning rate 0.001, beta 2"."""
    groups = defaultdict(list)
    for i, settings in enumerate(_differing(configs)):
        words = [f"{name.replace('_', ' ')} {value:g}" for name, value in settings if name != "seed"]
        groups[", ".join(words)].append(i)
    return groups


def _differing(configs: Sequence[Config]) -> list[list[tuple[str, float | int]]]:
    """Return the names and values of the settings in which configurations differ."""
    names = [name for name in SWEPT if len({getattr(config, name) for config in configs}) > 1]
    return [[(name, getattr(config, name)) for name in names] for config in configs]


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
    state = jax.eval_shape(first.initial_state)
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
