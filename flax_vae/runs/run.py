"""A trained model as a value: loaded from a run directory, from files or from the hub, and written as files.

The files are parameters as safetensors, and their description as JSON. Reading them parses arrays and JSON, and
executes nothing.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from shlex import quote
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from flax_vae.batches import ExampleShape, X, are_views, blank, example_shape, shape_text
from flax_vae.calls import describe
from flax_vae.data import is_own, one_hot
from flax_vae.models.binding import Collections, Params, bind, split_objective
from flax_vae.pytrees import by_name, flatten_by_name, from_names, names_tree
from flax_vae.runs import hub
from flax_vae.runs.checkpoints import refuse_other_model
from flax_vae.runs.config import Binarize, Config
from flax_vae.runs.config_file import parse_config, read_config, shared_content
from flax_vae.runs.data import Data, load_data, refuse_other_data
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.models import model_of, parameter_shapes
from flax_vae.runs.records import Record, held_out_set
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically, write_json
from flax_vae.system.settings import by_default, methods_by_default

PRETRAINED = Path(__file__).parents[1] / "pretrained"
_PREFIX, _SUFFIX = "pretrained:", ".safetensors"
_FORMAT = 1
_PARAMS, _EXAMPLES, _LABELS = "params.", "examples", "labels"


@methods_by_default
@dataclass(frozen=True, repr=False)
class StoredRun:
    """A trained model and its origin.

    Attributes:
        name: as given to `load_run`.
        directory: the run directory; None for a model loaded from files.
        config: the configuration, with every setting filled in.
        model: the model.
        params: its parameters at the best epoch (the averaged ones if there are any), or Linen's whole tree if it has
            other collections; see `flax_vae.models.binding`.
        step: the training step of the parameters.
        metrics: one record per epoch; for a model loaded from files, only the record of its parameters.
        data: checksums of the training and test images.
        examples: a few test examples: uint8 images "n h w c", vectors "n v", or several views.
        class_names: the classes of a conditional model; empty for other models.
        labels: the labels of the examples, for a conditional model.
        evaluation: the stored evaluation of a model loaded from files, or None; see `evaluation_of`.
        dataset: the data set that was passed when the run was opened; None for that of the configuration.
        objective_params: Linen's whole tree of an objective that has parameters; empty for other objectives, and for a
            model loaded from files.
        stored_params: the parameters in the directory or the files. They differ from `params` after
            `dataclasses.replace(run, params=...)`.
    """

    name: str
    directory: Path | None
    config: Config
    model: nn.Module
    params: Params
    step: int
    metrics: list[Record]
    data: Record
    examples: X
    class_names: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    evaluation: Record | None = None
    objective_params: Collections = field(default_factory=dict)
    stored_params: Params | None = None
    dataset: str | None = None

    def __repr__(self) -> str:
        """Describe the run in a few lines: its arrays would take megabytes."""
        model, objective = (self.config.name_of(kind) for kind in ("preset", "objective"))
        held_out = held_out_set(self.record)
        lines = {
            "model": f"{model}, {objective}, {self.kind} {shape_text(self.shape)}",
            "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(self.params)):,}",
            "step": f"{self.step:,}, {held_out} loss {self.record.get(f'{held_out}_loss', math.nan):.2f}",
            "directory": f"{self.directory}",
        }
        return "\n".join([f"Run {self.name}", *(f"  {name:12}{value}" for name, value in lines.items())])

    @property
    def is_stored(self) -> bool:
        """True if the parameters are those of the directory or the files."""
        return self.params is self.stored_params

    @property
    def shape(self) -> ExampleShape:
        """The shape of one example; for views, the shape of each."""
        return example_shape(self.examples)

    @property
    def kind(self) -> str:
        """The kind of the examples: "images", "vectors", which may be counts, or "views"."""
        if are_views(self.examples):
            return "views"
        return "images" if self.examples.ndim == 4 else "vectors"

    def require_images(self, what: str) -> None:
        """Raise UserError if `what` needs images, and the run was trained on another kind of examples."""
        if self.kind != "images":
            raise UserError(f"{what} needs images, but {self.name} was trained on {self.kind}.")

    def refuse_views(self, what: str) -> None:
        """Raise UserError for `what`, which takes one array only, if the run was trained on several views."""
        if self.kind == "views":
            raise UserError(f"{what} needs examples of one array, but {self.name} was trained on views.")

    def stream(self) -> Record | None:
        """Return the description of the stream that the run was trained on; None for other data, and for files."""
        return None if self.directory is None else RunDirectory(self.directory).stream()

    @property
    def latent_dims(self) -> tuple[int, ...]:
        """The number of latents in each stochastic layer, top first."""
        x, key = blank(self.shape), jax.random.key(0)
        context = jnp.zeros((1, len(self.class_names))) if self.class_names else None
        layers = jax.eval_shape(
            lambda: [layer.z for layer in bind(self.model, self.params, context).infer(x, key).layers]
        )
        return tuple(z.size for z in layers)

    @property
    def record(self) -> Record:
        """The metrics of the epoch that the parameters are from."""
        return next((record for record in self.metrics if record["step"] == self.step), {})

    @property
    def contexts(self) -> np.ndarray | None:
        """The examples' labels as one-hot vectors "n k", or None."""
        return None if self.labels is None else one_hot(self.labels, len(self.class_names))


@by_default
def read_run(where: str | Path, model: nn.Module | str | None = None, **parts: str | None) -> StoredRun:
    """Read a trained model as a value; arguments and errors as for `flax_vae.load_run`."""
    given, repository = {"preset": model, **parts}, hub.parse(where)
    name = str(repository or where)
    if name.startswith(_PREFIX):
        return _read_file(pretrained(name.removeprefix(_PREFIX)), name, given)
    if repository is not None:
        return _read_file(hub.fetch(repository), name, given)
    if Path(where).suffix == _SUFFIX:
        return _read_file(Path(where).expanduser(), name, given)
    directory = RunDirectory(Path(where))
    if members := directory.members():
        raise UserError(f"{directory} holds {len(members)} runs: name one of them, such as {members[0]}.")
    run = read_directory(directory, model_of(name, *read_config(directory.config_file), given))
    _warn_of_another_model(run, directory.provenance().get("model"))
    return run


def pretrained(name: str) -> Path:
    """Return the file of a model that comes with the package.

    Raises:
        UserError: unknown name.
    """
    names = sorted(path.stem for path in PRETRAINED.glob(f"*{_SUFFIX}"))
    if name not in names:
        raise UserError(f"No pretrained model is called {name!r}: choose from {', '.join(names)}.")
    return PRETRAINED / f"{name}{_SUFFIX}"


def read_directory(run: RunDirectory, model: nn.Module) -> StoredRun:
    """Read the run of a model."""
    config, shape = read_config(run.config_file)
    class_names, labels = run.labels() if config.conditional else ((), None)
    item = parameter_item(run, config)
    step, trees = run.restore_best({item: parameter_shapes(model, shape, class_names)})
    params, of_objective = split_objective(trees[item])
    return StoredRun(
        name=str(run),
        directory=run.path,
        config=config,
        model=model,
        params=params,
        step=step,
        metrics=run.metrics(),
        data=run.data_checksums(),
        examples=run.examples(),
        class_names=class_names,
        labels=labels,
        objective_params=of_objective,
        stored_params=params,
    )


def parameter_item(run: RunDirectory, config: Config) -> str:
    """Return the item of a run's checkpoints that holds the parameters to evaluate and sample with."""
    files = ("averaged_params.safetensors", "averaged_params")  # the second by Orbax
    # A schedule-free optimiser averages without `ema_decay`.
    is_averaged = config.ema_decay or any(any(run.checkpoints.glob(f"*/{file}")) for file in files)
    return "averaged_params" if is_averaged else "params"


def _read_file(path: Path, name: str, given: Mapping[str, Any]) -> StoredRun:
    arrays, shape, description, fields = read_files(path)
    model = model_of(name, fields["config"], shape, given)
    expected = parameter_shapes(model, shape, fields["class_names"])
    refuse_other_model(str(path), arrays, flatten_by_name(expected))
    params = jax.tree.map(lambda name, leaf: jnp.asarray(arrays[name], leaf.dtype), names_tree(expected), expected)
    run = StoredRun(name=name, directory=None, model=model, params=params, stored_params=params, **fields)
    _warn_of_another_model(run, description)
    return run


def _warn_of_another_model(run: StoredRun, description: Any) -> None:
    """Warn if a model of the user's own is not described as the one that the run was trained with."""
    if not isinstance(description, str):
        return
    for trained, opened in zip_longest(description.splitlines(), describe(run.model).splitlines(), fillvalue="nothing"):
        if trained != opened:
            log(f"WARNING: {run.name} was trained with another model: {trained.strip()}, here {opened.strip()}.")
            return


def read_files(path: Path) -> tuple[dict[str, np.ndarray], ExampleShape, Any, dict[str, Any]]:
    """Read the parameters by their names, the shape of the images, the description of an own model, and other fields.

    Raises:
        UserError: missing, damaged, or of another version of this package.
    """
    description = path.with_suffix(".json")
    try:
        about, content = json.loads(description.read_text()), path.read_bytes()
        if about["format"] != _FORMAT:
            raise ValueError(f"its format is {about['format']}, this version of flax_vae reads format {_FORMAT}")
        if sha256(content).hexdigest() != about["sha256"]:
            raise ValueError(f"{path.name} does not have the checksum in {description.name}")
        arrays = safetensors.numpy.load(content)
        config, shape = parse_config(about["config"], description)
        fields = {
            "config": config,
            "step": int(about["step"]),
            "metrics": [dict(about["record"])],
            "data": dict(about["data"]),
            "examples": from_names(arrays, _EXAMPLES),
            "class_names": tuple(about["class_names"]),
            "labels": arrays.get(_LABELS),
            "evaluation": about["evaluation"],
        }
        params = {name.removeprefix(_PARAMS): array for name, array in arrays.items() if name.startswith(_PARAMS)}
        return params, shape, about.get("model"), fields
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is damaged, or not a model of flax_vae.") from None


@by_default
def write_run(run: StoredRun, path: str | Path, half: bool = False) -> Path:
    """Write a trained model as a .safetensors file, with its description in a .json file beside it, for `load_run`.

    Args:
        run: the model. A model of your own must be passed to `load_run` again.
        path: the file of the parameters.
        half: write the parameters in float16, which halves the file.

    Returns:
        The path of the parameters.
    """
    path, dtype = Path(path).expanduser().with_suffix(_SUFFIX), np.float16 if half else np.float32
    params = flatten_by_name(jax.device_get(run.params))
    arrays = {
        _PARAMS + name: np.asarray(array, dtype if np.issubdtype(array.dtype, np.floating) else array.dtype, order="C")
        for name, array in params.items()
    }
    arrays |= by_name(run.examples, _EXAMPLES)
    if run.labels is not None:
        arrays[_LABELS] = run.labels
    content = safetensors.numpy.save(arrays)
    write_atomically(path, lambda part: part.write_bytes(content))
    description = {
        "format": _FORMAT,
        "sha256": sha256(content).hexdigest(),
        "step": run.step,
        "class_names": run.class_names,
        "data": run.data,
        "config": shared_content(run.config, run.shape),
        "model": describe(run.model) if run.config.has_own_model else None,
        "record": run.record,
        "evaluation": evaluation_of(run),
    }
    write_json(path.with_suffix(".json"), description)
    return path


def evaluation_of(run: StoredRun) -> Record | None:
    """Return the results of `flax-vae evaluate` for these parameters, or None."""
    if not run.is_stored:
        return None
    return run.evaluation if run.directory is None else RunDirectory(run.directory).evaluation(run.step)


def refuse_own_data(name: str, config: Config) -> None:
    """Raise UserError if a run was trained on a data set of the user's own, which has to be passed again."""
    if is_own(config.dataset):
        raise UserError(f"{name} was trained on a data set of your own: pass `dataset` {quote(config.dataset)}.")


def run_data(run: StoredRun, binarize: Binarize | None = None, binarize_seed: int = 0) -> Data:
    """Load the images of a run.

    Args:
        run: the run.
        binarize, binarize_seed: as in `Config`, to binarise the images in another way than for the training.

    Raises:
        UserError: the images cannot be loaded, or differ from those that the run was trained on; or the run was trained
            on a data set of the user's own that was not passed when the run was opened: no code that a run names is
            imported.
    """
    config = run.config if binarize is None else replace(run.config, binarize=binarize, binarize_seed=binarize_seed)
    if run.dataset is not None:
        config = replace(config, dataset=run.dataset)
    else:
        refuse_own_data(run.name, config)
    data = load_data(config, classes=run.class_names)
    refuse_other_data(data, run.data, run.name)
    return data
