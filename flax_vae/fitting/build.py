"""From a configuration to what it names: the data, the model, the objective and the optimiser."""

import math
from dataclasses import dataclass, replace
from functools import partial
from inspect import isclass, signature
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from flax_vae.data import is_binary
from flax_vae.models.binding import init, with_dtype, with_remat
from flax_vae.objectives import OBJECTIVES, Cyclical, DynamicallyBinarized, Metrics, Objective
from flax_vae.objectives.schedules import refuse_unfinished
from flax_vae.parts import LARGEST_INT, read_call
from flax_vae.runs.config import Config
from flax_vae.runs.data import Data, load_data
from flax_vae.runs.models import make_model
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.memory import device_memory, require_memory
from flax_vae.system.processes import is_first_process
from flax_vae.training.gradient import Gradient
from flax_vae.training.optimizers import make_optimizer
from flax_vae.training.sharding import ensemble_mesh
from flax_vae.training.step import TrainState, make_gradient, make_step, zero_metrics


def make_objective(config: Config, steps_per_epoch: int, num_images: int) -> Objective:
    """The objective that is named, at the configuration's beta and number of samples.

    Args:
        num_images: size of the training set.
    """
    total_steps = config.epochs * steps_per_epoch
    if config.has_own_objective:
        return load_objective(config.objective)
    objective = OBJECTIVES.make(config.objective, num_images=num_images, total_steps=total_steps)
    given = {name: getattr(config, name) for name in ("beta", "num_samples")}
    return replace(objective, **{name: value for name, value in given.items() if value is not None})


def load_objective(written: str) -> Objective:
    """Import `my_module:my_objective`, or `my_module:my_objective(weight=2.0)`, from the current directory first.

    A class is called with the arguments; a function has them bound.

    Raises:
        UserError: no such module or attribute, or one that does not take (model, x, key, step).
    """
    call = read_call(written)
    objective: Any = OBJECTIVES.load(call)
    try:
        if isclass(objective):
            objective = objective(*call.args, **dict(call.kwargs))
        elif call.args or call.kwargs:
            bound = signature(objective).bind("model", "x", "key", "step", *call.args, **dict(call.kwargs))
            objective = partial(objective, **dict(list(bound.arguments.items())[4:]))
        signature(objective).bind("model", "x", "key", "step")
    except (TypeError, ValueError) as error:  # a ValueError if a builtin has no signature
        name = call.name.partition(":")[2]
        raise UserError(f"`objective` {call}: it is called as {name}(model, x, key, step), but {error}.") from None
    return objective


@dataclass(frozen=True)
class Training:
    """Everything about a training but its state; members of an ensemble share all of it but `config`.

    Attributes:
        config: the configuration.
        model: the Linen module.
        objective: what is minimised.
        data: the images.
        batch_size: images per step.
        steps_per_epoch: steps per epoch; the last partial batch of each epoch is dropped.
        beta_from_config: whether the objective's beta is that of each member's configuration.
    """

    config: Config
    model: nn.Module
    objective: Objective
    data: Data
    batch_size: int
    steps_per_epoch: int
    beta_from_config: bool

    @property
    def total_steps(self) -> int:
        """Updates in the whole training."""
        return self.config.epochs * self.steps_per_epoch

    def own(self) -> dict[str, float | None]:
        """The values of the configuration that the program takes from each member."""
        return {"beta": self.config.beta, "learning_rate": self.config.learning_rate}

    def objective_at(self, beta: float | Array | None) -> Objective:
        """The objective with a member's beta, which may have to rise to it."""
        objective: Any = self.objective
        if self.beta_from_config and beta is not None:
            period = self.total_steps // self.config.kl_cycles
            warmup = min(round(self.config.kl_warmup_epochs * self.steps_per_epoch), period)
            weight = Cyclical(warmup, period, self.config.kl_cycles, weight=beta) if warmup else beta
            objective = replace(objective, beta=weight)
        return DynamicallyBinarized(objective) if self.config.binarize == "dynamic" else objective

    def tx(self, learning_rate: float | Array) -> optax.GradientTransformation:
        """The optimiser at a member's learning rate."""
        return make_optimizer(
            self.config.optimizer,
            learning_rate,
            self.total_steps,
            warmup_steps=min(self.config.warmup_steps, self.total_steps // 10),
            schedule=self.config.schedule,
            clip_norm=self.config.clip_norm,
        )

    @property
    def whole_batch(self) -> bool:
        """Whether the objective compares the images of a batch with each other, so that no batch may be cut."""
        return getattr(self.objective, "whole_batch", False)

    @property
    def microbatch_size(self) -> int:
        """Images that a CPU core works on at a time; 0 where a batch is not cut."""
        prior = getattr(self.model, "prior", None)
        # Every microbatch would encode a prior's images again.
        at_once = self.whole_batch or getattr(prior, "encodes_each_step", False)
        return 0 if at_once or jax.default_backend() != "cpu" else self.config.microbatch_size

    def gradient(self, beta: float | Array | None, mesh: Mesh | None = None) -> Gradient:
        """The gradient of a batch at a member's beta, on the devices of a mesh."""
        return make_gradient(self.model, self.objective_at(beta), self.microbatch_size, self.config.accumulate, mesh)

    def train_step(self, own: dict[str, Any], mesh: Mesh | None) -> Any:
        """The step, given the values of `config` that are a member's own, on the devices of a mesh."""
        tx = self.tx(own["learning_rate"])
        return make_step(self.gradient(own["beta"], mesh), tx, self.config.ema_decay, self.config.skip_norm, mesh)

    def mesh(self, members: int = 1) -> Mesh:
        """The devices that share the members of an ensemble, and their batches."""
        at_once = self.batch_size // self.config.accumulate
        return ensemble_mesh(members, at_once, self.config.devices, self.config.fsdp)

    def keys(self) -> tuple[Array, Array, Array]:
        """Keys of the first parameters, of the training and of the evaluations."""
        init_key, train_key, test_key = jax.random.split(jax.random.key(self.config.seed), 3)
        return jax.random.split(init_key)[0], train_key, test_key  # split again, so that seeds keep their bits

    def fresh_state(self) -> TrainState:
        """The state before the first step."""
        init_key, train_key, _ = self.keys()
        shape, classes = self.data.train.images.shape[1:], len(self.data.class_names)
        params = init(self.model, init_key, shape, classes)
        return TrainState.create(params, self.tx(self.config.learning_rate), train_key, self.config.ema_decay > 0)

    def fresh_totals(self) -> Metrics:
        """Zeros, one for each metric that the train step reports."""
        batch: Any = jax.ShapeDtypeStruct((self.batch_size, *self.data.train.images.shape[1:]), jnp.uint8)
        if self.data.class_names:
            batch = batch, jax.ShapeDtypeStruct((self.batch_size, len(self.data.class_names)), jnp.float32)
        objective, state = self.objective_at(self.config.beta), jax.eval_shape(self.fresh_state)
        return zero_metrics(self.model, objective, state, batch)


def build(
    config: Config, model: nn.Module | None = None, objective: Objective | None = None, members: int = 1
) -> Training:
    """Load the data and make model and objective; writes nothing.

    Args:
        config: model, data, objective and recipe.
        model, objective: your own, instead of those that the configuration names.
        members: how many are trained in one program.

    Raises:
        UserError: data that cannot be had, or a training that makes no sense.
    """
    data = load_data(config)
    count, *shape = data.train.images.shape
    batch_size = min(config.batch_size, count)
    steps_per_epoch = count // batch_size
    beta_from_config = objective is None and config.beta is not None
    objective = objective or make_objective(config, steps_per_epoch, count)
    refuse_unfinished(objective, config.epochs * steps_per_epoch)
    if model is None:
        model = make_model(config, (shape[0], shape[1], shape[2]), data.train.images)
    model = with_dtype(with_remat(model) if config.remat else model, config.precision)
    training = Training(config, model, objective, data, batch_size, steps_per_epoch, beta_from_config)
    if config.accumulate > 1 and (training.whole_batch or batch_size % config.accumulate):
        reason = (
            f"{config.objective} compares the images of" if training.whole_batch else "as many parts cannot make up"
        )
        raise UserError(f"--accumulate {config.accumulate}: {reason} a batch of {batch_size}.")
    _refuse_too_large(training, members)
    levels = getattr(getattr(model, "likelihood", None), "pixel_levels", None)
    if is_first_process() and levels == 2 and not is_binary(data.held_out.images):
        log(
            "Bernoulli likelihood on grey values: the loss is their cross-entropy, in nats per image. It trains well, "
            "but is not a density; compare it only with the same loss. --likelihood names others."
        )
    return training


def _refuse_too_large(training: Training, members: int) -> None:
    """Raise UserError where a step fits in no memory, or its number in no int32.

    The estimates are from below: of what is kept of a step for its gradient, only the decoder's output is counted.
    """
    config, there = training.config, device_memory()
    if training.total_steps > LARGEST_INT:
        raise UserError(f"--epochs {config.epochs}: {training.total_steps:,} steps, {LARGEST_INT:,} at most.")
    state = jax.eval_shape(training.fresh_state)
    arrays = jax.tree.leaves((state, state.params))  # the gradient is as large as the parameters
    size = members * sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
    require_memory(
        size,
        f"{members} models with their optimisers" if members > 1 else "The model with its optimiser",
        "lower --latent-dim, or choose a smaller --preset",
        there,
    )
    share = -(-training.batch_size // (jax.device_count() * config.accumulate))
    draws, at_once = config.num_samples or 1, min(config.microbatch_size or share, share)
    size = 4 * draws * at_once * math.prod(training.data.train.images.shape[1:])
    way_out = "lower --num-samples, --batch-size or --microbatch-size"
    require_memory(size, f"{draws:,} draws for each of {at_once:,} images at a time", way_out, there)
