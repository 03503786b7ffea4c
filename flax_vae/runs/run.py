"""A trained model, and the data that it was trained on."""

from dataclasses import dataclass, replace
from pathlib import Path

import flax.linen as nn
import numpy as np

from flax_vae.data import one_hot
from flax_vae.models.vae import Params
from flax_vae.runs.config import Binarize, Config
from flax_vae.runs.data import Data, load_data, refuse_other_data
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.records import Record


@dataclass(frozen=True)
class Run:
    """A trained model and its origin.

    Attributes:
        name: as given to `load_run`.
        directory: the run directory; None for a model loaded from files.
        config: the configuration, with every setting filled in.
        vae: the model.
        params: its parameters at the best epoch (the averaged ones if there are any).
        step: the training step of the parameters.
        metrics: one record per epoch; for a model loaded from files, only the record of its parameters.
        data: checksums of the training and test images.
        examples: a few uint8 test images "n h w c".
        class_names: the classes of a conditional model; empty for other models.
        labels: the labels of the examples, for a conditional model.
        evaluation: the stored evaluation of a model loaded from files, or None; see `evaluation_of`.
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


def evaluation_of(run: Run) -> Record | None:
    """Return the results of `flax-vae evaluate` for these parameters, or None."""
    return run.evaluation if run.directory is None else RunDirectory(run.directory).evaluation(run.step)


def run_data(run: Run, binarize: Binarize | None = None, binarize_seed: int = 0) -> Data:
    """Load the images of a run.

    Args:
        run: the run.
        binarize, binarize_seed: as in `Config`, to binarise the images in another way than for the training.

    Raises:
        UserError: the images cannot be loaded, or differ from those that the run was trained on.
    """
    config = run.config
    if binarize is not None:
        config = replace(config, binarize=binarize, binarize_seed=binarize_seed)
    data = load_data(config)
    refuse_other_data(data, run.data, run.name)
    return data
