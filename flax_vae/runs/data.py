"""The images of a training: as its configuration loads, splits and binarises them."""

from dataclasses import dataclass, replace

from flax_vae.batches import Batch, OnDisk
from flax_vae.data import ImageData, as_batch, class_names, draw_binary, load_images, split_validation
from flax_vae.runs.config import Config
from flax_vae.system.errors import UserError


@dataclass(frozen=True, eq=False)
class Data:
    """The images of a training.

    Attributes:
        train, test: as loaded, binarised where that is once for all.
        validation: what is held out of the training images, or None.
        class_names: of the labels that a conditional model is given; empty for others.
    """

    train: ImageData
    test: ImageData
    validation: ImageData | None
    class_names: tuple[str, ...]

    @property
    def held_out(self) -> ImageData:
        """What the best checkpoint is chosen by."""
        return self.test if self.validation is None else self.validation

    @property
    def held_out_name(self) -> str:
        """What its metrics are called."""
        return "test" if self.validation is None else "validation"

    def batch(self, images: ImageData) -> Batch:
        """Images as a model takes them, with their labels where it is conditional."""
        return as_batch(images, self.class_names)


def load_data(config: Config) -> Data:
    """The images that a configuration names.

    Raises:
        UserError: they cannot be had, or do not go together.
    """
    train, test = (
        load_images(config.dataset, split, config.data_dir, config.image_size) for split in ("train", "test")
    )
    if test.images.shape[1:] != train.images.shape[1:]:
        raise UserError(
            f"{config.dataset}: train images are {train.images.shape[1:]}, test images {test.images.shape[1:]}."
        )
    if config.binarize != "none" and any(isinstance(part.images, OnDisk) for part in (train, test)):
        raise UserError(
            f"--binarize {config.binarize}: pixels are drawn in memory, and {config.dataset} is too large for that: "
            "binarise its images, then prepare them."
        )
    names = class_names(train) if config.conditional else ()
    if config.conditional and not names:
        raise UserError(f"--conditional needs labels, and {config.dataset} has none.")
    validation = None
    if config.validation:
        train, validation = split_validation(train, config.validation)
    seed = config.binarize_seed
    if config.binarize == "fixed":
        train = replace(train, images=draw_binary(train.images, (seed, 0)))
    if config.binarize != "none":
        test = replace(test, images=draw_binary(test.images, (seed, 1)))
        if validation is not None:
            validation = replace(validation, images=draw_binary(validation.images, (seed, 3)))
    as_batch(test, names)  # refuses other labels
    return Data(train, test, validation, names)
