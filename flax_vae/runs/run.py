"""A trained model: open it, find its images, and write it as files that can be shipped."""

from dataclasses import dataclass, replace
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from flax_vae.data import one_hot
from flax_vae.models.vae import Params, init, with_dtype
from flax_vae.nn.layers import ImageShape
from flax_vae.runs import artifact, checkpoints, hub
from flax_vae.runs.artifact import Artifact
from flax_vae.runs.config import Binarize, Config
from flax_vae.runs.data import Data, load_data
from flax_vae.runs.directory import Record, RunDirectory, data_sums
from flax_vae.runs.models import make_model
from flax_vae.system.errors import UserError

_PRETRAINED = "pretrained:"


@dataclass(frozen=True)
class Run:
    """A trained model and where it came from.

    Attributes:
        name: as it was opened.
        directory: the run directory; None of a model that comes as files or with the package.
        config: the whole configuration.
        vae: the model.
        params: its parameters at the best epoch (the averaged ones where there are any).
        step: the update after which the parameters were these.
        metrics: one record per epoch; of a model that comes as files, that of its parameters.
        data: checksums of the images it was trained and tested on.
        examples: a few uint8 test images "n h w c".
        class_names: of the labels that a conditional model is given; empty for others.
        labels: of the examples, for a conditional model.
        evaluation: of a model that comes as files, what `flax-vae evaluate` had measured, or None; see `evaluation_of`.
    """

    name: str
    directory: Path | None
    config: Config
    vae: nn.Module
    params: Params
    step: int
    metrics: list[Record]
    data: Record
    examples: np.ndarray
    class_names: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    evaluation: Record | None = None

    @property
    def contexts(self) -> np.ndarray | None:
        """The examples' labels as one-hot vectors "n k", or None."""
        return None if self.labels is None else one_hot(self.labels, len(self.class_names))


def _file(where: str | Path) -> Path | None:
    """The file of the parameters, where it is not a run directory that is named."""
    if str(where).startswith(_PRETRAINED):
        return artifact.pretrained(str(where).removeprefix(_PRETRAINED))
    if (found := hub.parse(where)) is not None:
        return hub.fetch(found)
    return Path(where) if Path(where).suffix == artifact.SUFFIX else None


def load_run(where: str | Path, vae: nn.Module | None = None) -> Run:
    """Open a trained model for sampling: reads arrays and JSON, executes nothing that its files say.

    Args:
        where: a run directory; a .safetensors file as of `write_run`; "pretrained:NAME", a model that comes with the
            package; or "hf://OWNER/NAME", optionally with "@REVISION", one on the Hugging Face hub. Nothing else is
            needed, not even the data set.
        vae: the model, where it was one of your own.

    Raises:
        UserError: nothing of the kind, a damaged one, or one of another model.
    """
    name, file = str(hub.parse(where) or where), _file(where)
    if file is not None:
        return _from_file(name, file, vae)
    run = RunDirectory(Path(where))
    if members := run.members():
        raise UserError(f"{where} holds {len(members)} runs: name one of them, as {members[0]}.")
    config, shape = run.config()
    class_names, labels = run.labels() if config.conditional else ((), None)
    model = _model(config, shape, vae)
    which = "averaged_params" if config.ema_decay else "params"
    step, found = run.restore_best({which: _shapes(model, shape, class_names)})
    return Run(
        name, run.path, config, model, found[which], step, run.metrics(), run.data_sums(), run.examples(),
        class_names, labels,
    )  # fmt: skip


def _from_file(name: str, path: Path, vae: nn.Module | None) -> Run:
    found = artifact.read_artifact(path)
    model = _model(found.config, found.image_shape, vae)
    try:
        params = found.params(_shapes(model, found.image_shape, found.class_names))
    except ValueError as error:
        raise UserError(f"{path} is of another model: {error}.") from None
    return Run(
        name, None, found.config, model, params, found.step, [found.record], found.data, found.examples,
        found.class_names, found.labels, found.evaluation,
    )  # fmt: skip


def _model(config: Config, shape: ImageShape, vae: nn.Module | None) -> nn.Module:
    return make_model(config, shape) if vae is None else with_dtype(vae, config.precision)


def _shapes(model: nn.Module, shape: ImageShape, class_names: tuple[str, ...]) -> Params:
    return jax.eval_shape(lambda: init(model, jax.random.key(0), shape, len(class_names)))


def write_run(run: Run, path: str | Path, half: bool = False) -> Path:
    """Write a trained model as a .safetensors file, and what it is as a .json file beside it, for `load_run`.

    Args:
        run: the model. One of your own is to be passed to `load_run` again.
        path: of the parameters.
        half: write them in float16, half as large.

    Returns:
        The path of the parameters.
    """
    path = Path(path).with_suffix(artifact.SUFFIX)
    (record,) = [record for record in run.metrics if record["step"] == run.step] or [{}]
    arrays, shape = checkpoints.named(jax.device_get(run.params)), run.examples.shape[1:]
    about = Artifact(
        run.config, shape, arrays, run.step, run.data, record, evaluation_of(run), run.examples, run.class_names,
        run.labels,
    )  # fmt: skip
    artifact.write_artifact(path, about, half)
    return path


def evaluation_of(run: Run) -> Record | None:
    """What `flax-vae evaluate` measured of these parameters, or None."""
    return run.evaluation if run.directory is None else RunDirectory(run.directory).evaluation(run.step)


def run_data(run: Run, binarize: Binarize | None = None, binarize_seed: int = 0) -> Data:
    """The images of a run.

    Args:
        run: the run.
        binarize, binarize_seed: as in `Config`, where the images are to be binarised otherwise than for the training.

    Raises:
        UserError: they cannot be had, or are not those that the run was trained on.
    """
    own = run.config
    data = load_data(own if binarize is None else replace(own, binarize=binarize, binarize_seed=binarize_seed))
    if data_sums(data) != run.data:  # those of the images as they were before they were binarised
        raise UserError(f"{data.train.name} is not the data that {run.name} was trained on.")
    return data
