"""Build what a configuration names: data, model, objective and recipe."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from flax_vae.batches import example_size, refuse_outside, unpack
from flax_vae.calls import Call, bind_arguments, describe
from flax_vae.data import ARRAYS, load_images
from flax_vae.data.stream import as_stream
from flax_vae.fitting.training import Training, compares_images
from flax_vae.literals import LARGEST_INT
from flax_vae.models.binding import Params, split_tree, with_dtype, with_remat
from flax_vae.objectives import OBJECTIVES, Objective
from flax_vae.objectives.schedules import refuse_unfinished
from flax_vae.pytrees import flatten_by_name
from flax_vae.runs.checkpoints import refuse_other_model
from flax_vae.runs.config import MODEL_PARTS, PARTS, Config
from flax_vae.runs.data import Data, Given, load_data, read_given
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.models import make_model, model_of, parameter_shapes
from flax_vae.runs.records import Record
from flax_vae.runs.run import StoredRun
from flax_vae.system.errors import UserError
from flax_vae.system.memory import device_memory, require_memory
from flax_vae.training.step import make_step


class Own(NamedTuple):
    """Values that replace parts of a configuration.

    Attributes:
        model: the Linen module.
        objective: a function, a frozen dataclass or a Linen module.
        optimizer: an Optax transformation.
    """

    model: nn.Module | None = None
    objective: Objective | None = None
    optimizer: optax.GradientTransformation | None = None


NOTHING = Own()


def own_parts(model: Any, objective: Any, optimizer: Any) -> Own:
    """Return the values that replace parts of a configuration.

    Raises:
        UserError: a text or a class in place of a value, or an objective that takes other arguments.
    """
    for name, value in {"model": model, "objective": objective, "optimizer": optimizer}.items():
        if isinstance(value, str):
            field = "preset" if name == "model" else name
            raise UserError(f"`{name}` is the text {value!r}: pass the value, or name it by Config({field}={value!r}).")
        if isinstance(value, type):
            raise UserError(f"`{name}` is the class {value.__name__}: make it, as {value.__name__}(...).")
    if optimizer is not None and not hasattr(optimizer, "update"):
        name = getattr(optimizer, "__name__", type(optimizer).__name__)
        raise UserError(f"`optimizer` {name} is not an Optax transformation, such as optax.adam(1e-3).")
    if objective is not None:
        _refuse_other_signature("objective", objective, OBJECTIVES.called_with)
    return Own(model, objective, optimizer)


def refuse_other_start(init: Any, callbacks: Any) -> None:
    """Raise UserError unless `init` is a run and `callbacks` are functions."""
    if init is not None and not isinstance(init, StoredRun):
        kind = f"a {type(init).__name__}"
        raise UserError(f"`init` is {kind}: pass a run, such as load_run('runs/latest').")
    if not isinstance(callbacks, Sequence):
        raise UserError("`callbacks` is a list of functions (epoch, metrics, state).")
    for callback in callbacks:
        _refuse_other_signature("callbacks", callback, "epoch, metrics, state")


def _refuse_other_signature(kind: str, function: Any, arguments: str) -> None:
    name = getattr(function, "__name__", type(function).__name__)
    bind_arguments(f"`{kind}` {name}", function, arguments, name, Call(name))


def build(config: Config, own: Own = NOTHING, members: int = 1, given: Given | None = None) -> Training:
    """Load the data and make model, objective and optimiser; nothing is written.

    Args:
        config: model, data, objective and recipe.
        own: the values that replace parts of the configuration.
        members: number of trainings in the program.
        given: the examples, if they are in memory already, or a stream.

    Raises:
        UserError: a part of the user's own cannot be imported, or the data cannot be loaded or do not fit the settings
            or the memory.
    """
    values = dict.fromkeys(MODEL_PARTS, own.model) | {"objective": own.objective, "optimizer": own.optimizer}
    for kind, part in config.own_parts.items():
        if values.get(kind) is None:
            PARTS[kind].load(part)  # imported now, since loading the data may take minutes
    data = load_data(config, given)
    config = fitted_to(config, data)
    if data.feed is None:
        count = len(data.train)
        batch_size = min(config.batch_size, count)
        steps_per_epoch = count // batch_size
    else:
        batch_size, steps_per_epoch = config.batch_size, data.feed.steps_per_epoch
        count = batch_size * steps_per_epoch
    beta_from_config = own.objective is None and config.beta is not None
    objective = own.objective or make_objective(config, steps_per_epoch, count)
    if config.has_own("objective") and config.monitor is None:  # recorded, since an opened run does not import it
        config = replace(config, monitor=getattr(objective, "monitor", None))
    refuse_unfinished(objective, config.epochs * steps_per_epoch)
    model = make_model(config, data.train.shape, data.train.x) if own.model is None else own.model
    if config.precision != "float32" and not hasattr(model, "dtype"):
        raise UserError(f"`precision` {config.precision} has no effect: {type(model).__name__} has no field dtype.")
    model = with_dtype(with_remat(model) if config.remat else model, config.precision)
    training = Training(config, model, objective, data, batch_size, steps_per_epoch, beta_from_config, own.optimizer)
    _refuse_other_values(training)
    _refuse_uneven_parts(training)
    _refuse_too_large(training, members)
    if config.has_own("optimizer"):
        refuse_other_optimizer(training)
    return training


def given_data(
    configs: Mapping[str, Config], directory: RunDirectory, data: Any, labels: Any
) -> tuple[dict[str, Config], Given | None]:
    """Return the configurations, naming the file in which the run stores its examples, and the examples.

    Args:
        configs: the configurations of the members, by their names.
        directory: the directory of all members.
        data, labels: as for `fit`; None for the data set of the configurations.
    """
    if data is None and labels is not None:
        raise UserError("`labels` has no effect without `data`: pass the images, too.")
    if data is None:
        return dict(configs), None
    given = read_given(data, labels, next(iter(configs.values())))
    file = str(directory.path.absolute() / ARRAYS)
    return {name: config.naming_data(file) for name, config in configs.items()}, given


def fitted_to(config: Config, data: Data) -> Config:
    """Return the configuration with batches and epochs that fit the training set; see `Config.fitted_to`.

    A stream determines the batch size, and leaves the number of epochs as configured.
    """
    if data.feed is None:
        return config.fitted_to(len(data.train))
    return replace(config, batch_size=len(data.train), min_steps=0)


def description_of_stream(training: Training) -> Record | None:
    """Describe the stream of a training, for the provenance of its run; None if it has none."""
    feed = training.data.feed
    if feed is None:
        return None
    return {"of": feed.kind, "is_resumable": feed.is_resumable, "is_held_out": feed.held_out is not None}


def open_again(run: RunDirectory, data: Any, config: Config) -> Given | None:
    """Return the stream of a run to resume, with the held-out examples that the run stores; None without a stream.

    Raises:
        UserError: the stream of the run is not passed or cannot be resumed, or `data` is passed for a run that was not
            trained on a stream.
    """
    trained = run.stream()
    if trained is None:
        if data is not None:
            raise UserError(f"{run} was not trained on a stream, and loads its own examples: leave out `data`.")
        return None
    if not trained["is_resumable"]:
        raise UserError(f"{run}: {run.how_to_resume}")
    stream = as_stream(data)
    if stream is None:
        raise UserError(f"{run} was trained on a stream of {trained['of']}: pass it as `data`.")
    held_out = load_images(config.dataset, "test") if trained["is_held_out"] else None
    return read_given(replace(stream, held_out=held_out), None, config)


def starting_from(training: Training, run: StoredRun) -> Training:
    """Return the training with the parameters of a run as its first ones.

    Raises:
        UserError: the parameters do not fit the model.
    """
    refuse_other_params(f"`init` {run.name}", run.params, training)
    return replace(training, start=run.params)


def refuse_other_params(where: str, params: Params, training: Training) -> None:
    """Raise UserError if the names or the shapes of parameters are not those of the model."""
    expected = parameter_shapes(training.model, training.data.train.shape, training.data.class_names)
    refuse_other_model(where, flatten_by_name(params), flatten_by_name(expected))


def description_of(config: Config, own: Own, training: Training) -> str | None:
    """Describe a model that is the user's own, or has such a part; None for other models."""
    if not config.has_own_model:
        return None
    parts = config.own_parts if own.model is None else {"preset": own.model}
    return describe(model_of("", config, training.data.train.shape, parts))


def make_objective(config: Config, steps_per_epoch: int, num_images: int) -> Objective:
    """Make the objective of a configuration, at its beta and number of samples.

    Args:
        config: the configuration.
        steps_per_epoch: steps per epoch.
        num_images: size of the training set.
    """
    objective = OBJECTIVES.make(
        config.objective,
        num_images=num_images,
        steps_per_epoch=steps_per_epoch,
        total_steps=config.epochs * steps_per_epoch,
    )
    if config.has_own("objective"):
        return objective
    settings = {name: getattr(config, name) for name in ("beta", "num_samples")}
    return replace(objective, **{name: value for name, value in settings.items() if value is not None})


def refuse_unknown_monitor(training: Training, metrics: Iterable[str]) -> None:
    """Raise UserError if the objective does not report the metric that chooses the best checkpoint."""
    reported = set(metrics) - {"gradient_norm", "skipped"}  # those of the train step
    if training.config.monitored not in reported:
        raise UserError(
            f"`monitor` {training.config.monitored} is not a metric of `objective` "
            f"{training.config.name_of('objective')}: choose from {', '.join(sorted(reported))}."
        )


def _refuse_other_values(training: Training) -> None:
    """Raise UserError for vectors or counts that the likelihood does not take; images are pixels in any case."""
    data, model = training.data, training.model
    for part in (data.train, data.test, data.validation):
        if part is None or part.kind == "images":
            continue
        batch = data.batch(part)
        try:
            refuse_outside(batch, model)
            jax.eval_shape(lambda batch: unpack(batch, model), batch)
        except UserError as error:
            advice = (
                "The entry of the model's `likelihood` for a view decides which values the view may have."
                if part.kind == "views"
                else "`likelihood` normal takes vectors, and poisson counts; reshape flattened images to (n, h, w)."
            )
            raise UserError(f"{part.name} holds {part.kind}: {error} {advice}") from None


def refuse_other_optimizer(training: Training) -> None:
    """Raise UserError if an optimiser of the user's own cannot update the parameters."""

    def gradient(tree: Params, *_: Any) -> tuple[Any, ...]:
        params, collections = split_tree(tree)
        return params, {"loss": jnp.zeros(())}, collections

    step = make_step(gradient, training.optimizer_at(training.config.learning_rate))
    try:
        jax.eval_shape(lambda state: step(state, None), training.state_shapes)
    except UserError:
        raise
    except Exception as error:  # an optimiser may raise anything
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(f"`optimizer` does not update the parameters of a model by their gradient: {reason}") from error


def _refuse_uneven_parts(training: Training) -> None:
    """Raise UserError if a batch cannot be cut into the parts of `accumulate`."""
    config, batch_size = training.config, training.batch_size
    if config.accumulate > 1 and compares_images(training.objective):
        raise UserError(
            f"`accumulate` must be 1, not {config.accumulate}: {config.objective} compares all images of a batch."
        )
    if batch_size % config.accumulate:
        raise UserError(f"`accumulate` is {config.accumulate} and must divide the batch of {batch_size} images.")


def _refuse_too_large(training: Training, members: int) -> None:
    """Raise UserError if a step cannot fit in memory, or the number of steps in int32.

    The estimates are lower bounds: of the activations, only the decoder's output is counted.
    """
    config, limit = training.config, device_memory()
    if training.total_steps > LARGEST_INT:
        raise UserError(
            f"`epochs` is {config.epochs}, which makes {training.total_steps:,} steps: lower it to at most "
            f"{LARGEST_INT:,} steps."
        )
    state = training.state_shapes
    arrays = jax.tree.leaves((state, state.params))  # the gradient is as large as the parameters
    require_memory(
        members * sum(leaf.size * leaf.dtype.itemsize for leaf in arrays),
        f"{members} models with their optimisers" if members > 1 else "The model with its optimiser",
        "lower `latent_dim`, or choose a smaller `preset`",
        limit,
    )
    per_device = -(-training.batch_size // (jax.device_count() * config.accumulate))
    draws, images = config.num_samples or 1, min(config.microbatch_size or per_device, per_device)
    require_memory(
        4 * draws * images * example_size(training.data.train.shape),
        f"{draws:,} draws for each of {images:,} images at a time",
        "lower `num_samples`, `batch_size` or `microbatch_size`",
        limit,
    )
