"""The members of an ensemble in one program: their states on the devices, their checkpoints, and which still train."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from flax_vae.batches import Batch, take
from flax_vae.fitting.host_input import Dispatch
from flax_vae.fitting.members import Member, checkpoint_items
from flax_vae.fitting.training import Training
from flax_vae.metrics.objective_means import Spans, first_block, make_evaluate
from flax_vae.runs.checkpoints import Checkpoints, open_checkpoints
from flax_vae.runs.config import Config
from flax_vae.runs.members import step_numbers
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.processes import is_first_process, maximum_over_processes, place_on_devices
from flax_vae.training.diagnosis import diagnose
from flax_vae.training.ensemble import make_ensemble_steps, stack, unstack
from flax_vae.training.gradient import deals_microbatches
from flax_vae.training.sharding import EACH_MEMBER, EVERYWHERE, MEMBERS_AXIS, batch_devices, parameter_shardings
from flax_vae.training.step import MAX_SKIPS, TrainState

Means = dict[str, float]  # of the metrics, over the images of an epoch or of a set


@contextmanager
def open_ensemble(members: Sequence[Member]) -> Iterator["Ensemble"]:
    """Place members on the devices and open their checkpoints; at the end, all checkpoints are written."""
    keep = max(members[0].training.config.keep, 2)  # one spare: the last may be damaged, or written by some members
    with ExitStack() as exits:
        checkpoints = [
            exits.enter_context(open_checkpoints(directory.checkpoints, keep, directory.best_step))
            for directory in (member.directory for member in members)
        ]
        yield Ensemble(members, checkpoints)


class Ensemble:
    """Members that train together.

    Attributes:
        members: the members as they were before the training.
        training: the first member's training, from which the others differ in their settings only.
        mesh: devices that split the members and their batches.
        held_out: the examples, with their contexts, that choose the best checkpoint; None if none are held out.
        step: number of updates of each member that still trains.
        failed: the reasons why members have diverged, by the numbers of the members.
    """

    def __init__(self, members: Sequence[Member], checkpoints: Sequence[Checkpoints]) -> None:
        """Place the states on the devices, and define functions, which are compiled at their first call.

        `steps` maps `(state, totals, dispatch)` to `(state, totals)`, all stacked. `unstack` returns
        `(state, totals)` of each member. `replicate` places arrays on all devices, so that every process can read
        them. `evaluate_at` has an evaluation for each objective.

        Args:
            members: the members, with the states from which they train.
            checkpoints: the checkpoints of each member.
        """
        training, count = members[0].training, len(members)
        mesh = training.mesh(count)
        self.members, self.checkpoints, self.training, self.mesh = members, checkpoints, training, mesh
        held_out = training.data.held_out
        self.held_out = None if held_out is None else training.data.batch(held_out)
        each_member, everywhere = NamedSharding(mesh, EACH_MEMBER), NamedSharding(mesh, EVERYWHERE)
        shardings = parameter_shardings(mesh, members[0].state, MEMBERS_AXIS), each_member
        self.state = place_on_devices(stack([member.state for member in members]), shardings[0])
        self.totals = place_on_devices(stack([member.totals for member in members]), each_member)
        trainings = [member.training for member in members]
        numbers, in_batch = step_numbers([each.config for each in trainings]), mesh if batch_devices(mesh) > 1 else None
        steps = [partial(trainings[numbers.index(i)].step_at, mesh=in_batch) for i in sorted({*numbers})]
        deal = deals_microbatches(mesh, training.part_size, training.microbatch_size)
        settings = np.array(numbers, np.int32), stack([each.settings for each in trainings])
        settings = place_on_devices(settings, each_member)
        self.steps = partial(make_ensemble_steps(steps, mesh, shardings, deal), settings)
        alone = parameter_shardings(mesh, members[0].state), everywhere
        self.unstack = jax.jit(partial(unstack, count=count), out_shardings=[alone] * count)
        self.replicate = jax.jit(lambda tree: tree, out_shardings=everywhere)
        evaluate = partial(make_evaluate, training.model, batch_size=training.batch_size, mesh=training.mesh())
        objectives = {_key_of_objective(each): each.objective_at(each.config.beta) for each in trainings}
        self.evaluate_at = {key: evaluate(objective) for key, objective in objectives.items()}
        self.step = max(int(member.state.step) for member in members)
        self.failed, self.stopped = dict[int, UserError](), set[int]()
        self.stop_early()

    def active(self) -> list[int]:
        """Return the numbers of the members that still train."""
        return [i for i in range(len(self.members)) if i not in self.failed and i not in self.stopped]

    def stop_early(self) -> None:
        """Stop the members whose validation loss no longer improves."""
        for i in self.active():
            member = self.members[i]
            if maximum_over_processes(is_first_process() and member.directory.stopped_early(member.training.config)):
                self.stopped.add(i)

    def compile(self, dispatch: Dispatch) -> None:
        """Compile all programs, by a dispatch without steps and an evaluation without batches."""
        self.advance(dispatch._replace(start=0, stop=0))
        if self.held_out is not None:
            self.evaluate(first_block(self.held_out, self.training.batch_size), lambda start, end: [(start, start)])

    def advance(self, dispatch: Dispatch) -> None:
        """Run the steps of a dispatch; members that now skip every step fail."""
        self.state, self.totals = self.steps(self.state, self.totals, dispatch)
        ends = self.replicate((self.state.step, self.state.skips))
        steps, skips = (array.tolist() for array in jax.device_get(ends))  # waits for the device
        for i in self.active():
            if skips[i] >= MAX_SKIPS:
                last = dispatch.start + steps[i] - self.step - 1
                batch = take(dispatch.images, last if dispatch.rows is None else dispatch.rows[i, last])
                why = self._diagnose(i, place_on_devices(batch, NamedSharding(self.mesh, EVERYWHERE)), steps[i] - 1)
                self._fail(i, f"step {steps[i]} and the {skips[i] - 1} before were skipped: {why}")
        self.step += dispatch.stop - dispatch.start

    def _diagnose(self, i: int, batch: Batch, step: int) -> str:
        """Describe a member's failed step, with advice."""
        training, states = self.members[i].training, jax.device_get(self.replicate(self.state))
        state = unstack(states, len(self.members))[i]
        gradient, key = training.gradient_at(training.config.beta), jax.random.fold_in(state.key, step)
        description = diagnose(training.model, gradient, state.tree, batch, key, step)
        if step < MAX_SKIPS and not training.config.skip_norm:
            return f"{description}. No earlier step was finite: check the objective and the data"
        return f"{description}. {_advice(training.config)}"

    def fail_if_skipping(self, means: dict[int, Means]) -> None:
        """Drop members that skipped most steps of the epoch: they would learn nothing from the next ones either."""
        for i in self.active():
            if (skipped := means[i]["skipped"]) > 0.5:
                advice = _advice(self.members[i].training.config)
                self._fail(i, f"{skipped:.0%} of the epoch's steps were skipped. {advice}")

    def _fail(self, i: int, why: str) -> None:
        """Record that a member has failed, and report it if others continue.

        Raises:
            UserError: all members have failed.
        """
        directory, saved = self.members[i].directory, self.checkpoints[i].latest_step
        rest = "there is no checkpoint yet" if saved is None else f"the checkpoint of step {saved} is intact"
        self.failed[i] = UserError(f"{why}; {rest}.")
        if is_first_process():
            directory.failure_file.write_text(f"{self.failed[i]}\n")
            if self.active():
                log(f"{directory} stops. {self.failed[i]}")
        if len(self.failed) == len(self.members):
            raise self.failed[0]

    def means(self, steps: int) -> dict[int, Means]:
        """Return each member's mean train metrics over the epoch's steps so far, and the fraction of skipped steps.

        Skipped steps do not count for the other means.
        """
        totals = jax.device_get(self.replicate(self.totals))

        def mean(i: int) -> Means:
            skipped = float(totals["skipped"][i])
            counted = max(steps - skipped, 1)
            return {name: float(total[i]) / counted for name, total in totals.items()} | {"skipped": skipped / steps}

        return {i: mean(i) for i in self.active()}

    def clear_totals(self) -> None:
        """Reset the metrics at the end of an epoch."""
        self.totals = jax.tree.map(jnp.zeros_like, self.totals)

    def evaluate(self, images: Batch, spans: Spans) -> dict[int, Means]:
        """Return each member's mean metrics on images, under the objective with its final weights.

        If the weights changed with the step, epochs could not be compared, and none would be the best.

        Args:
            images: images and contexts.
            spans: cuts the batches into dispatches.
        """
        states, mesh, means = self.unstack((self.state, self.totals)), self.training.mesh(), {}
        for i in self.active():
            training, params = self.members[i].training, states[i][0].best_params
            params = place_on_devices(params, parameter_shardings(mesh, params))
            evaluate = self.evaluate_at[_key_of_objective(training)]
            means[i] = evaluate(params, images, training.keys.test, training.total_steps, spans)
        return means

    def first_state(self) -> TrainState:
        """Return the state of the first member, readable in a single process. Every process must call this."""
        state, _ = self.unstack((self.state, self.totals))[0]
        return state if jax.process_count() == 1 else self.replicate(state)

    def save(self, stream: str | None) -> None:
        """Write a checkpoint of each member that still trains and has none of this step.

        Args:
            stream: the state of the stream of training batches, or None.

        Raises:
            OSError: it cannot be written.
            UserError: the run directory is gone.
        """
        states = self.unstack((self.state, self.totals))
        for i in self.active():
            self.members[i].directory.config()  # raises if it is gone
            if self.checkpoints[i].latest_step != self.step:
                self.checkpoints[i].save(self.step, checkpoint_items(*states[i]), stream)

    def wait_until_saved(self) -> None:
        """Wait until the checkpoints are written."""
        for checkpoints in self.checkpoints:
            checkpoints.finish()


def _key_of_objective(training: Training) -> tuple[Any, ...]:
    """Return the settings of the objective in which members may differ."""
    config = training.config
    return config.objective, config.beta, config.kl_warmup_epochs


def _advice(config: Config) -> str:
    """Return advice for a training that skips steps."""
    other = f"raise `skip_norm` (now {config.skip_norm:g})" if config.skip_norm else "set `clip_norm` to 1"
    if config.learning_rate is None:  # the optimiser is the user's own
        return f"Lower the learning rate, or {other.replace('set `clip_norm` to 1', 'clip the gradient')}"
    return f"Lower `learning_rate` (now {config.learning_rate:g}), or {other}"
