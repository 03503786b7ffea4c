"""A training with everything it is made of, and several of them in one program.

Members of a program share model, data and recipe; seed, beta and learning rate are their own.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from flax_vae.console import say
from flax_vae.data import ImageData, as_batch
from flax_vae.errors import UserError
from flax_vae.metrics.means import make_evaluate
from flax_vae.models.vae import VAE
from flax_vae.objectives.terms import Metrics, Objective
from flax_vae.runs import checkpoints
from flax_vae.runs.config import Config
from flax_vae.runs.report import best_record, read_metrics
from flax_vae.training.ensemble import make_members_steps, stack, unstack
from flax_vae.training.sharding import data_mesh, member_shardings, members_mesh, shardings
from flax_vae.training.step import TrainState, init_state, make_train_step, make_train_steps, zero_metrics

FAILED = "failed.txt"  # in the directory of a member that stopped while others went on: why
_RESIDENT_BYTES = 2**31  # images beyond this are sent to the device in blocks


@dataclass(frozen=True)
class Training:
    """Everything about a training but its state. Members of one program share all of it but three values of `config`.

    Attributes:
        objective: the objective at a beta.
        tx: the optimiser at a learning rate.
        class_names: of the labels that a conditional model is given; empty for others.
    """

    config: Config
    vae: VAE
    objective: Callable[[Any], Objective]
    tx: Callable[[Any], optax.GradientTransformation]
    train: ImageData
    test: ImageData
    batch_size: int
    steps_per_epoch: int
    class_names: tuple[str, ...]

    def train_step(self, own: Mapping[str, Any], mesh: Mesh | None = None) -> Any:
        """The jitted step, given the values of `config` that are a member's own."""
        on_cpu = jax.default_backend() == "cpu"  # other devices take their share of a batch at once
        cut = on_cpu and not self.whole_batch() and self.config.prior != "vamp"  # pseudo-inputs are encoded each time
        return make_train_step(
            self.vae,
            self.objective(own["beta"]),
            self.tx(own["learning_rate"]),
            ema_decay=self.config.ema_decay,
            microbatch_size=self.config.microbatch_size if cut else 0,
            mesh=mesh,
        )

    def whole_batch(self) -> bool:
        """Whether the objective compares the images of a batch with each other, so that no batch may be cut."""
        return getattr(self.objective(self.config.beta), "whole_batch", False)

    @property
    def total_steps(self) -> int:
        """Updates in the whole training."""
        return self.config.epochs * self.steps_per_epoch

    def own(self) -> dict[str, float]:
        """The values that `train_step` takes from each member."""
        return {"beta": self.config.beta, "learning_rate": self.config.learning_rate}

    def mesh(self) -> Mesh | None:
        """The devices that share a batch."""
        return data_mesh(self.batch_size, 1 if self.whole_batch() else self.config.devices)

    def keys(self) -> tuple[Array, Array, Array]:
        """Keys of the first parameters, of the training and of the evaluations."""
        init_key, train_key, test_key = jax.random.split(jax.random.key(self.config.seed), 3)
        return init_key, train_key, test_key

    def fresh_state(self) -> TrainState:
        """The state before the first step."""
        init_key, train_key, _ = self.keys()
        shape = self.train.images.shape[1:]
        tx = self.tx(self.config.learning_rate)
        state = init_state(self.vae, tx, init_key, shape, self.config.ema_decay > 0, len(self.class_names))
        return replace(state, key=train_key)

    def fresh_totals(self) -> Metrics:
        """Zeros, one for each metric that the train step reports."""
        batch: Any = jax.ShapeDtypeStruct((self.batch_size, *self.train.images.shape[1:]), jnp.uint8)
        if self.class_names:
            batch = batch, jax.ShapeDtypeStruct((self.batch_size, len(self.class_names)), jnp.float32)
        return zero_metrics(self.vae, self.objective(self.config.beta), jax.eval_shape(self.fresh_state), batch)


class Member(NamedTuple):
    """A training with its run directory, and where it stands."""

    directory: Path
    training: Training
    state: TrainState
    totals: Metrics

    def best_step(self) -> int | None:
        """The step of the best epoch so far."""
        best = best_record(read_metrics(self.directory))
        return None if best is None else best["step"]


def checkpoint_items(state: TrainState, totals: Metrics) -> dict[str, Any]:
    """The trees of a checkpoint: those to sample with stand alone, the key is a function of the seed."""
    items = {
        "params": state.params,
        "optimizer": {"step": state.step, "opt_state": state.opt_state, "totals": totals},
    }
    return items if state.averaged_params is None else items | {"averaged_params": state.averaged_params}


class Group(ExitStack):
    """The members' states on the devices, their checkpoints on disk, and which members still go on."""

    def __init__(self, members: Sequence[Member]) -> None:
        """Place the states: one member has all devices share its batches; of several, each has one device."""
        super().__init__()
        self.members, self.failed = members, dict[int, UserError]()
        training, alone = members[0].training, len(members) == 1
        self.data_mesh = training.mesh()
        if alone:
            self.everywhere, self.split = shardings(self.data_mesh)
            self.steps = make_train_steps(training.train_step(training.own(), self.data_mesh), self.data_mesh)
        else:
            mesh = members_mesh(len(members), training.config.devices)
            self.everywhere, self.split = member_shardings(mesh)
            own = jax.device_put(stack([member.training.own() for member in members]), self.split)
            self.steps = partial(make_members_steps(training.train_step, mesh), own)
        states = stack([member.state for member in members]), stack([member.totals for member in members])
        self.state, self.totals = jax.device_put(states, self.everywhere if alone else self.split)
        self.unstack = jax.jit(partial(unstack, count=len(members)), out_shardings=self.everywhere)
        evaluate = partial(make_evaluate, training.vae, batch_size=training.batch_size, mesh=self.data_mesh)
        betas = {member.training.config.beta for member in members}
        self.evaluate_at = {beta: evaluate(training.objective(beta)) for beta in betas}
        # A kill may come when only some have saved an epoch: several members keep one more to go back to.
        keep = 1 if alone else 2
        self.checkpoints = [
            self.enter_context(checkpoints.open_checkpoints(member.directory / "checkpoints", keep, member.best_step))
            for member in members
        ]

    def going(self) -> list[int]:
        """The members whose metrics have been finite so far."""
        return [i for i in range(len(self.members)) if i not in self.failed]

    def place(self, images: Any) -> Any:
        """On the devices, where they fit."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(images))
        if size <= _RESIDENT_BYTES:
            return jax.device_put(images, self.everywhere)
        if len(self.members) > 1:
            raise UserError(
                f"{size / 2**30:.1f} GiB of images do not fit on the device, which several members need: "
                "train one seed, beta and learning rate at a time."
            )
        return images

    def advance(self, images: Any, rows: Array, start: int, stop: int) -> None:
        """Make the steps of a dispatch, and take out the members that came to a metric that is not finite."""
        self.state, self.totals, last = self.steps(self.state, self.totals, images, rows, start, stop)
        ends = jax.device_get(self.unstack((self.state.step, last)))  # waits for the device
        for i in self.going():
            step, metrics = ends[i]
            if bad := [name for name in metrics if not np.isfinite(metrics[name])]:
                bad = [f"{name} is {metrics[name]}" for name in sorted(bad, key=lambda name: name != "loss")]
                member, saved = self.members[i], self.checkpoints[i].latest_step()
                self.failed[i] = UserError(
                    f"step {step}: {', '.join(bad)}. Lower --learning-rate (now "
                    f"{member.training.config.learning_rate:g}) or bound the gradient by --clip-norm 1; "
                    + ("there is no checkpoint yet." if saved is None else f"the checkpoint of step {saved} is intact.")
                )
                if len(self.members) > 1:
                    (member.directory / FAILED).write_text(f"{self.failed[i]}\n")
                    say(f"{member.directory} stops. {self.failed[i]}")
        if not self.going():
            raise self.failed[0]

    def means(self, steps: int) -> dict[int, dict[str, float]]:
        """Each member's train metrics over the steps of the epoch so far."""
        totals = jax.device_get(self.unstack(self.totals))
        return {i: {name: float(total) / steps for name, total in totals[i].items()} for i in self.going()}

    def evaluate(self) -> dict[int, dict[str, float]]:
        """Each member's test metrics, by the objective as it is after the last step of the training.

        A weight that changes with the step would measure every epoch differently, and the best could not be told.
        """
        states, everywhere = self.unstack(self.state), shardings(self.data_mesh)[0]
        tests = {}
        for i in self.going():
            training, params = self.members[i].training, jax.device_put(states[i].best_params, everywhere)
            evaluate, (*_, test_key) = self.evaluate_at[training.config.beta], training.keys()
            tests[i] = evaluate(params, as_batch(training.test, training.class_names), test_key, training.total_steps)
        return tests

    def clear_totals(self) -> None:
        """Begin a new epoch."""
        self.totals = jax.tree.map(jnp.zeros_like, self.totals)

    def save(self, step: int) -> None:
        """A checkpoint of each member that still goes on."""
        items = self.unstack((self.state, self.totals))
        for i in self.going():
            checkpoints.save(self.checkpoints[i], step, checkpoint_items(*items[i]))
