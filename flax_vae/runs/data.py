"""Load, split and binarise the images of a training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flax_vae.batches import Batch, OnDisk
from flax_vae.data import Examples, as_batch, class_names, draw_binary, load_images, split_validation
from flax_vae.runs.config import Config
from flax_vae.system.errors import UserError

Arrays = tuple[Examples, Examples]  # of training and test images


@dataclass(frozen=True, eq=False)
class Data:
    """The images of a training.

    Attributes:
        train, test: as loaded, and binarised if that is fixed.
        validation: the images held out of the training set, or None.
        class_names: the classes of a conditional model; empty for other models.
    """

    train: Examples
    test: Examples
    validation: Examples | None
    class_names: tuple[str, ...]

    @property
    def held_out(self) -> Examples:
        """The set that selects the best checkpoint."""
        return self.test if self.validation is None else self.validation

    def batch(self, images: Examples) -> Batch:
        """Return images as a batch for the model, with their labels if it is conditional."""
        return as_batch(images, self.class_names)


def load_data(config: Config, arrays: Arrays | None = None) -> Data:
    """Load the images that a configuration names.

    Args:
        config: the configuration.
        arrays: the training and test images, if they are in memory already.

    Raises:
        UserError: the images cannot be loaded, or the splits do not match.
    """
    train, test = arrays or (
        load_images(config.dataset, split, config.data_dir, config.image_size, config.resize)
        for split in ("train", "test")
    )
    if (test.kind, test.shape) != (train.kind, train.shape):
        raise UserError(
            f"{config.dataset}: training {train.kind} have shape {train.shape}, but test {test.kind} have shape "
            f"{test.shape}."
        )
    if config.binarize != "none" and train.kind != "images":
        raise UserError(
            f"`binarize` {config.binarize} samples pixels, but {config.dataset} holds {train.kind}: leave it out."
        )
    if config.binarize != "none" and any(isinstance(part.x, OnDisk) for part in (train, test)):
        raise UserError(
            f"`binarize` {config.binarize} samples pixels in memory, but {config.dataset} is too large for that: "
            "binarise its images, then prepare them."
        )
    names = class_names(train) if config.conditional else ()
    if config.conditional and not names:
        raise UserError(f"`conditional` requires labels, but {config.dataset} has none.")
    validation = None
    if config.validation:
        train, validation = split_validation(train, config.validation)
    seed = config.binarize_seed
    if config.binarize == "fixed":
        train = replace(train, x=draw_binary(train.x, (seed, 0)))
    if config.binarize != "none":
        test = replace(test, x=draw_binary(test.x, (seed, 1)))
        if validation is not None:
            validation = replace(validation, x=draw_binary(validation.x, (seed, 3)))
    as_batch(test, names)  # raises if the test labels do not fit
    return Data(train, test, validation, names)


def data_checksums(data: Data) -> dict[str, str]:
    """Return the SHA-256 checksums that identify the data: of the images before any are held out or binarised."""
    return {"train": data.train.provenance["sha256"], "test": data.test.provenance["sha256"]}


def refuse_other_data(data: Data, checksums: Mapping[str, str], run: str) -> None:
    """Raise UserError unless the data has the checksums of the data that a run was trained on."""
    if data_checksums(data) != checksums:
        raise UserError(f"{data.train.name} is not the data that {run} was trained on: its checksums differ.")
