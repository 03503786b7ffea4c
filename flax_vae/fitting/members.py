"""The members of an ensemble: their states on the devices, their checkpoints on disk, and which of them still train.

They share model, data and recipe; seed, beta and learning rate are their own. A single run is an ensemble of one.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from flax_vae.batches import Batch, OnDisk, take
from flax_vae.fitting.build import Training
from flax_vae.metrics.objective_means import Spans, first_block, make_evaluate
from flax_vae.objectives import Metrics
from flax_vae.runs import checkpoints
from flax_vae.runs.config import Config
from flax_vae.runs.directory import RunDirectory
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.processes import is_first_process, maximum_over_processes, place_on_devices, run_in_first_process
from flax_vae.training.diagnosis import diagnose
from flax_vae.training.ensemble import make_ensemble_steps, stack, unstack
from flax_vae.training.gradient import deals_microbatches
from flax_vae.training.sharding import (
    BATCH_AXES,
    EACH_MEMBER,
    EVERYWHERE,
    MEMBERS_AXIS,
    batch_devices,
    parameter_shardings,
)
from flax_vae.training.step import MAX_SKIPS, TrainState

_RESIDENT_BYTES = 2**31  # images beyond this are sent to the device in blocks


class Member(NamedTuple):
    """A training with its run directory, and where it stands."""

    directory: RunDirectory
    training: Training
    state: TrainState
    totals: Metrics  # of the steps that no epoch has reported yet

    @property
    def epochs_reported(self) -> int:
        """The epochs that it was trained for, but the last one if it was stopped before that had been evaluated."""
        unreported = any(np.any(total) for total in self.totals.values())
        return (int(self.state.step) - unreported) // self.training.steps_per_epoch


def checkpoint_items(state: TrainState, totals: Metrics) -> dict[str, Any]:
    """The trees of a checkpoint: those to sample with stand alone, the key is a function of the seed."""
    items = {
        "params": state.params,
        "optimizer": {"step": state.step, "skips": state.skips, "opt_state": state.opt_state, "totals": totals},
    }
    return items if state.averaged_params is None else items | {"averaged_params": state.averaged_params}


def abstract_items(training: Training) -> dict[str, Any]:
    """Shapes and types of a checkpoint, the same for all members: tracing the objective takes its time."""
    return jax.eval_shape(lambda: checkpoint_items(training.fresh_state(), training.fresh_totals()))


def restore_member(directory: RunDirectory, training: Training, step: int, items: dict[str, Any]) -> Member:
    """A run as its checkpoint of `step` left it; what was reported after that is dropped."""
    found = checkpoints.restore(directory.checkpoints, step, items)
    rest = found["optimizer"]
    _, train_key, _ = training.keys()
    averaged = found.get("averaged_params")
    state = TrainState(rest["step"], found["params"], rest["opt_state"], averaged, rest["skips"], train_key)
    member = Member(directory, training, state, rest["totals"])
    run_in_first_process(partial(directory.keep_metrics_until, member.epochs_reported * training.steps_per_epoch))
    return member


def _advice(config: Config) -> str:
    """What may help a training that skips its steps."""
    other = (
        f"raise --skip-norm (now {config.skip_norm:g})" if config.skip_norm else "bound the gradient by --clip-norm 1"
    )
    return f"Lower --learning-rate (now {config.learning_rate:g}), or {other}"


class Ensemble(ExitStack):
    """The members on their devices."""

    def __init__(self, members: Sequence[Member]) -> None:
        """Place the states, and open the checkpoints."""
        super().__init__()
        self.members, self.failed, self.stopped = members, dict[int, UserError](), set[int]()
        training = members[0].training
        config, mesh = training.config, training.mesh(len(members))
        self.everywhere, self.split, self.rows, self.blocks = (
            jax.NamedSharding(mesh, spec)
            for spec in (EVERYWHERE, EACH_MEMBER, jax.P(MEMBERS_AXIS, None, BATCH_AXES), jax.P(None, BATCH_AXES))
        )
        of_one = parameter_shardings(mesh, members[0].state)
        of_all = parameter_shardings(mesh, members[0].state, MEMBERS_AXIS)
        own = place_on_devices(stack([member.training.own() for member in members]), self.split)
        step = partial(training.train_step, mesh=mesh if batch_devices(mesh) > 1 else None)
        dealt = deals_microbatches(mesh, training.batch_size // config.accumulate, training.microbatch_size)
        self.steps = partial(make_ensemble_steps(step, mesh, (of_all, self.split), dealt), own)
        self.state = place_on_devices(stack([member.state for member in members]), of_all)
        self.totals = place_on_devices(stack([member.totals for member in members]), self.split)
        self.unstack = jax.jit(partial(unstack, count=len(members)), out_shardings=self.everywhere)
        self.states = jax.jit(partial(unstack, count=len(members)), out_shardings=[of_one] * len(members))
        self.reached = [int(member.state.step) for member in members]
        self.data_mesh = training.mesh()
        evaluate = partial(make_evaluate, training.model, batch_size=training.batch_size, mesh=self.data_mesh)
        betas = {member.training.config.beta for member in members}
        self.evaluate_at = {beta: evaluate(training.objective_at(beta)) for beta in betas}
        keep = max(config.keep, 2)  # one more than is read, since that may be damaged, or of some members only
        for member in members if is_first_process() else ():
            self.callback(checkpoints.clear_unfinished, member.directory.checkpoints)
            checkpoints.clear_unfinished(member.directory.checkpoints)
        self.checkpoints = [
            self.enter_context(
                checkpoints.open_checkpoints(member.directory.checkpoints, keep, member.directory.best_step)
            )
            for member in members
        ]
        self.stop_stale()

    def going(self) -> list[int]:
        """The members that still train."""
        return [i for i in range(len(self.members)) if i not in self.failed and i not in self.stopped]

    def stop_stale(self) -> None:
        """Stop the members whose validation loss has not improved for as many epochs as they wait for."""
        for i in self.going():
            member = self.members[i]
            if maximum_over_processes(is_first_process() and member.directory.stopped_early(member.training.config)):
                self.stopped.add(i)

    def place(self, images: Batch) -> Batch:
        """On the devices, where they fit."""
        leaves = jax.tree.leaves(images)
        size = sum(leaf.nbytes for leaf in leaves)
        if size <= _RESIDENT_BYTES and not isinstance(leaves[0], OnDisk):
            return place_on_devices(images, self.everywhere)
        if len(self.members) > 1:
            raise UserError(
                f"{size / 2**30:.1f} GiB of images do not stay on the device, which several members need: "
                "train one seed, beta and learning rate at a time."
            )
        return images

    def compile(self, images: Any, rows: Array | None, held_out: Batch) -> None:
        """Compile what `advance` and `evaluate` run, by a dispatch of no steps and an evaluation of no batches."""
        self.advance(images, rows, 0, 0)
        self.evaluate(first_block(held_out, self.members[0].training.batch_size), lambda start, end: [(start, start)])

    def advance(self, images: Any, rows: Array | None, start: int, stop: int) -> None:
        """Make the steps of a dispatch, and take out the members that skip every step by now."""
        self.state, self.totals = self.steps(self.state, self.totals, images, rows, start, stop)
        ends = jax.device_get(self.unstack((self.state.step, self.state.skips)))  # waits for the device
        for i in self.going():
            before, (step, skips) = self.reached[i], map(int, ends[i])
            self.reached[i] = step
            if skips >= MAX_SKIPS:
                at = start + step - before - 1
                last = place_on_devices(take(images, at if rows is None else rows[i, at]), self.everywhere)
                self._fail(i, f"step {step} and the {skips - 1} before were skipped: {self._why(i, last, step - 1)}")
        if len(self.failed) == len(self.members):
            raise self.failed[0]

    def _why(self, i: int, batch: Batch, step: int) -> str:
        """What is wrong with a member's step, and what may help."""
        training, state = self.members[i].training, jax.device_get(self.unstack(self.state)[i])
        config = training.config
        key = jax.random.fold_in(state.key, step)
        found = diagnose(training.model, training.gradient(config.beta), state.params, batch, key, step)
        if step < MAX_SKIPS and not config.skip_norm:
            return f"{found}. No step before them was finite: look at the objective and the data"
        return f"{found}. {_advice(config)}"

    def stop_skipping(self, means: dict[int, dict[str, float]]) -> None:
        """Take out the members that skipped most steps of the epoch: they would go on so, and learn nothing."""
        for i in self.going():
            if (skipped := means[i]["skipped"]) > 0.5:
                advice = _advice(self.members[i].training.config)
                self._fail(i, f"{skipped:.0%} of the epoch's steps were skipped. {advice}")
        if len(self.failed) == len(self.members):
            raise self.failed[0]

    def _fail(self, i: int, why: str) -> None:
        """Remember, write down and, where others go on, say that a member stops."""
        member, saved = self.members[i], self.checkpoints[i].latest_step()
        kept = "there is no checkpoint yet" if saved is None else f"the checkpoint of step {saved} is intact"
        self.failed[i] = UserError(f"{why}; {kept}.")
        if is_first_process():
            member.directory.failure_file.write_text(f"{self.failed[i]}\n")
            if self.going():
                log(f"{member.directory} stops. {self.failed[i]}")

    def means(self, steps: int) -> dict[int, dict[str, float]]:
        """Each member's train metrics over the epoch's steps so far but those skipped, and the share of these."""
        totals = jax.device_get(self.unstack(self.totals))

        def of(totals: dict[str, Any]) -> dict[str, float]:
            skipped = float(totals["skipped"])
            made = max(steps - skipped, 1)
            return {name: float(total) / made for name, total in totals.items()} | {"skipped": skipped / steps}

        return {i: of(totals[i]) for i in self.going()}

    def evaluate(self, images: Batch, spans: Spans) -> dict[int, dict[str, float]]:
        """Each member's metrics on the set that chooses, by the objective as it is after the last step of the training.

        A weight that changes with the step would measure every epoch differently, and no epoch would be the best.

        Args:
            images: that set.
            spans: cuts the batches into dispatches.
        """
        states, found = self.states(self.state), {}
        for i in self.going():
            training, params = self.members[i].training, states[i].best_params
            params = place_on_devices(params, parameter_shardings(self.data_mesh, params))
            evaluate, (*_, test_key) = self.evaluate_at[training.config.beta], training.keys()
            found[i] = evaluate(params, images, test_key, training.total_steps, spans)
        return found

    def clear_totals(self) -> None:
        """Begin a new epoch."""
        self.totals = jax.tree.map(jnp.zeros_like, self.totals)

    def save(self, step: int) -> None:
        """A checkpoint of each member that still trains, where it has none of this step.

        Raises:
            UserError: it cannot be written; or the run directory is gone, which Orbax would make anew.
        """
        states, totals = self.states(self.state), self.unstack(self.totals)
        for i in self.going():
            self.members[i].directory.config()  # raises where it is gone
            if self.checkpoints[i].latest_step() != step:
                checkpoints.save(self.checkpoints[i], step, checkpoint_items(states[i], totals[i]))

    def finish(self) -> None:
        """Wait until the checkpoints are written."""
        for manager in self.checkpoints:
            checkpoints.finish(manager)
