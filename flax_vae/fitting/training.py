"""A training as a value, and what follows from it: objective, optimiser, step and initial state."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from flax_vae.batches import Batch
from flax_vae.models.binding import Params, join_objective, split_objective
from flax_vae.objectives import Cyclical, DynamicallyBinarized, Metrics, Objective
from flax_vae.runs.config import Config
from flax_vae.runs.data import Data
from flax_vae.training.gradient import Gradient
from flax_vae.training.optimizers import make_optimizer
from flax_vae.training.sharding import ensemble_mesh
from flax_vae.training.step import TrainState, init_tree, make_gradient, make_step, zero_metrics


class Keys(NamedTuple):
    """The keys of a training.

    Attributes:
        init: key of the initial parameters.
        train: key from which the steps draw.
        test: key from which evaluations draw.
    """

    init: Key[Array, ""]
    train: Key[Array, ""]
    test: Key[Array, ""]


@dataclass(frozen=True)
class Training:
    """Everything about a training except its state. Members of an ensemble differ in `config` and `objective` only.

    Attributes:
        config: the configuration.
        model: the Linen module.
        objective: the objective, before `objective_at` sets a member's beta.
        data: the images.
        batch_size: images per step.
        steps_per_epoch: steps per epoch; the last partial batch of each epoch is dropped.
        beta_from_config: True if the configuration sets the objective's beta.
        optimizer: the user's own optimiser, or None for that of the configuration.
        start: the parameters to start from, or None for random ones.
    """

    config: Config
    model: nn.Module
    objective: Objective
    data: Data
    batch_size: int
    steps_per_epoch: int
    beta_from_config: bool
    optimizer: optax.GradientTransformation | None = None
    start: Params | None = None

    @property
    def total_steps(self) -> int:
        """The number of updates of the training."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def num_images(self) -> int:
        """The number of training images; for a stream, the number in an epoch."""
        data = self.data
        return len(data.train) if data.feed is None else self.batch_size * self.steps_per_epoch

    @property
    def settings(self) -> tuple[Any, Any]:
        """Beta and learning rate: arguments of the step, which is compiled once for all their values."""
        return self.config.beta, self.config.learning_rate

    @property
    def keys(self) -> Keys:
        """The keys, which follow from the seed."""
        init_key, train_key, test_key = jax.random.split(jax.random.key(self.config.seed), 3)
        return Keys(jax.random.split(init_key)[0], train_key, test_key)  # split twice, so that seeds keep their bits

    @property
    def part_size(self) -> int:
        """The number of images whose gradient is computed at a time, on all devices of a batch together."""
        return self.batch_size // self.config.accumulate

    @property
    def microbatch_size(self) -> int:
        """The number of images that a CPU core works on at a time; 0 if batches are not cut."""
        prior = getattr(self.model, "prior", None)
        # Every microbatch would encode the images of such a prior again.
        indivisible = compares_images(self.objective) or getattr(prior, "encodes_each_step", False)
        return 0 if indivisible or jax.default_backend() != "cpu" else self.config.microbatch_size

    def mesh(self, members: int = 1) -> Mesh:
        """Return the devices that split the members of an ensemble and their batches."""
        return ensemble_mesh(members, self.part_size, self.config.devices, self.config.fsdp)

    def objective_at(self, beta: float | Array | None) -> Objective:
        """Return the objective at a member's beta, with its warm-up if there is one."""
        objective: Any = self.objective
        if self.beta_from_config and beta is not None:
            period = self.total_steps // self.config.kl_cycles
            warmup = min(round(self.config.kl_warmup_epochs * self.steps_per_epoch), period)
            weight = Cyclical(warmup, period, self.config.kl_cycles, weight=beta) if warmup else beta
            objective = replace(objective, beta=weight)
        return DynamicallyBinarized(objective) if self.config.binarize == "dynamic" else objective

    def gradient_at(self, beta: float | Array | None, mesh: Mesh | None = None) -> Gradient:
        """Return the gradient of a batch at a member's beta."""
        return make_gradient(self.model, self.objective_at(beta), self.microbatch_size, self.config.accumulate, mesh)

    def optimizer_at(self, learning_rate: Any) -> optax.GradientTransformation:
        """Return the optimiser at a member's learning rate."""
        if self.optimizer is not None:
            return self.optimizer
        config: Any = self.config  # with all settings of the optimiser
        steps = self.total_steps
        warmup = min(config.warmup_steps, steps // 10)
        return make_optimizer(config.optimizer, learning_rate, steps, warmup, config.schedule, config.clip_norm)

    def step_at(self, settings: tuple[Any, Any], mesh: Mesh | None) -> Any:
        """Return the train step at a member's settings; see `flax_vae.training.step.make_step`."""
        beta, learning_rate = settings
        gradient, tx = self.gradient_at(beta, mesh), self.optimizer_at(learning_rate)
        return make_step(gradient, tx, self.config.ema_decay, self.config.skip_norm, mesh)

    def initial_state(self) -> TrainState:
        """Return the state before the first step."""
        shape, classes = self.data.train.shape, len(self.data.class_names)
        tree = init_tree(self.model, self.objective, self.keys.init, shape, classes)
        if self.start is not None:
            tree = join_objective(self.start, split_objective(tree)[1])
        tx = self.optimizer_at(self.config.learning_rate)
        return TrainState.create(tree, tx, self.keys.train, self.config.ema_decay > 0)

    @cached_property
    def state_shapes(self) -> TrainState:
        """The shapes of the initial state, kept because tracing it takes a tenth of a second or more."""
        return jax.eval_shape(self.initial_state)

    def zero_totals(self) -> Metrics:
        """Return a zero for each metric of the train step; traces the objective."""
        train = self.data.train if self.data.feed is None else self.data.feed.first

        def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.batch_size, *leaf.shape[1:]), leaf.dtype)

        batch = Batch(*jax.tree.map(abstract, (train.x, None, train.mask)))
        if self.data.class_names:
            context = jax.ShapeDtypeStruct((self.batch_size, len(self.data.class_names)), jnp.float32)
            batch = replace(batch, context=context)
        return zero_metrics(self.model, self.objective_at(self.config.beta), self.state_shapes, batch)


def compares_images(objective: Objective) -> bool:
    """Return True if an objective compares the images of a batch with each other, so that no batch may be cut."""
    return getattr(objective, "whole_batch", False)
