"""Write the run directory of a model that a loop of the user's own has trained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import optax

from flax_vae.evaluation.run import Run
from flax_vae.fitting.build import build, description_of, own_parts, refuse_other_params
from flax_vae.models.binding import Params, split_objective
from flax_vae.objectives import Objective
from flax_vae.runs.checkpoints import open_checkpoints
from flax_vae.runs.config import Config
from flax_vae.runs.directory import RunDirectory, free_directory
from flax_vae.runs.records import Record, parse_record
from flax_vae.runs.run import parameter_item, read_directory
from flax_vae.system.errors import UserError
from flax_vae.system.files import new_directory
from flax_vae.system.settings import by_default
from flax_vae.training.step import TrainState


@by_default
def save_run(
    out: str | Path,
    params: Params,
    metrics: Mapping[str, Any],
    config: Config | None = None,
    *,
    model: nn.Module | None = None,
    objective: Objective | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Run:
    """Write the run directory of a model that a loop of your own has trained, for `load_run` and every command.

    Args:
        out: a new or empty directory.
        params: the trained parameters, such as `state.best_params`; or Linen's whole tree.
        metrics: their metrics: `step`, the number of updates; `test_loss`, or `validation_loss` if the configuration
            has a validation set; the `monitor` of the configuration likewise; and any others, such as `train_loss`.
        config: the configuration: its data set is read, and its settings are recorded; the default one if None.
        model, objective, optimizer: as for `fit`, if they are your own.

    Returns:
        The run. It cannot be resumed, but another one can start from it, by `fit(init=run)`.

    Raises:
        UserError: the directory is not empty, the data cannot be loaded, the parameters are not those of the model, or
            a metric is missing.
    """
    if isinstance(params, TrainState):
        raise UserError("`params` is a TrainState: pass state.best_params.")
    own = own_parts(model, objective, optimizer)
    config = (config or Config()).naming(*own)
    directory, record = free_directory(config, out), _record(metrics, config)
    training = build(config, own)
    refuse_other_params("`params`", split_objective(params)[0], training)
    made_of = {"model": description_of(config, own, training), "objective": None, "init": None}
    with new_directory(directory.path) as folder:
        run = RunDirectory(folder)
        with open_checkpoints(run.checkpoints) as checkpoints:
            checkpoints.save(record["step"], {parameter_item(run, config): params})
        run.metrics_file.write_text(json.dumps(record) + "\n")
        run.create(config, training.data, made_of)  # last, since its files mark the directory as a run
    directory.point_latest()
    return Run(**vars(read_directory(directory, training.model)) | {"dataset": config.dataset})


def _record(metrics: Mapping[str, Any], config: Config) -> Record:
    """Return the record of metrics.jsonl."""
    numbers = {name: float(value) for name, value in metrics.items()}
    held_out = "validation" if config.validation else "test"
    for name in ("step", f"{held_out}_loss", f"{held_out}_{config.monitored}"):
        if name not in numbers:
            raise UserError(f"`metrics` ({', '.join(metrics) or 'empty'}) has no {name}: add it.")
    whole = {"epoch": int(numbers.pop("epoch", config.epochs)), "step": int(numbers.pop("step"))}
    return parse_record(json.dumps(whole | {"seconds": 0.0} | numbers))
