"""Load, split and binarise the images of a training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax

from flax_vae.batches import Batch, OnDisk
from flax_vae.data import Examples, as_batch, class_names, draw_binary, from_arrays, load_images, split_validation
from flax_vae.data.resizing import make_size
from flax_vae.data.stream import Feed, as_stream
from flax_vae.runs.config import Config
from flax_vae.system.errors import UserError


class Given(NamedTuple):
    """Examples that `fit` is given in place of the name of a data set.

    Attributes:
        train, test: the examples; for a stream, the first batch, and the held-out examples or else the first batch.
        feed: the stream, if the training examples come as batches.
    """

    train: Examples
    test: Examples
    feed: Feed | None = None


@dataclass(frozen=True, eq=False)
class Data:
    """The images of a training.

    Attributes:
        train, test: as loaded, and binarised if that is fixed.
        validation: the images held out of the training set, or None.
        class_names: the classes of a conditional model; empty for other models.
        feed: the stream of the training batches, of which `train` is the first, or None.
    """

    train: Examples
    test: Examples
    validation: Examples | None
    class_names: tuple[str, ...]
    feed: Feed | None = None

    @property
    def held_out(self) -> Examples | None:
        """The set that selects the best checkpoint; None for a stream without held-out examples."""
        if self.feed is not None and self.feed.held_out is None:
            return None
        return self.test if self.validation is None else self.validation

    def batch(self, images: Examples) -> Batch:
        """Return images as a batch for the model, with their labels if it is conditional."""
        return as_batch(images, self.class_names)


def read_given(data: Any, labels: Any, config: Config) -> Given:
    """Return the examples that `fit` is given: arrays, of which a tenth is held out, or a stream.

    Raises:
        UserError: the values are not examples, or do not fit the settings.
    """
    stream = as_stream(data)
    if stream is None:
        return Given(*from_arrays(data, labels, make_size(config.image_size, config.resize)))
    settings = {"`labels`": labels is not None, "`validation`": config.validation, "`image_size`": config.image_size}
    settings["`binarize` fixed"] = config.binarize == "fixed"
    if named := [name for name, value in settings.items() if value]:
        raise UserError(f"{named[0]} needs examples in memory, but `data` is a stream of batches: leave it out.")
    if jax.process_count() > 1:  # each would have to read a part of every batch, and store its own place in the stream
        raise UserError(
            "`data` is a stream, which several processes cannot share: train in one process, or write the batches to a "
            "data set on disk."
        )
    feed = Feed(stream)
    return Given(feed.examples, feed.held_out or feed.examples, feed)


def load_data(config: Config, given: Given | None = None, classes: tuple[str, ...] = ()) -> Data:
    """Load the images that a configuration names.

    Args:
        config: the configuration.
        given: the examples, if they are in memory already, or a stream.
        classes: the classes of a conditional model that is trained already; by default those of the labels.

    Raises:
        UserError: the images cannot be loaded, or the splits do not match.
    """
    if given is None:
        settings = (config.data_dir, config.image_size, config.resize)
        given = Given(load_images(config.dataset, "train", *settings), load_images(config.dataset, "test", *settings))
    train, test, feed = given
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
    of_stream = () if feed is None else feed.class_names
    if of_stream and not config.conditional:
        raise UserError("The batches of `data` have labels: pass Config(conditional=True), or yield x alone.")
    names = (classes or of_stream or class_names(train)) if config.conditional else ()
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
    return Data(train, test, validation, names, feed)


def data_checksums(data: Data) -> dict[str, str]:
    """Return the SHA-256 checksums that identify the data: of the images before any are held out or binarised."""
    return {"train": data.train.provenance["sha256"], "test": data.test.provenance["sha256"]}


def refuse_other_data(data: Data, checksums: Mapping[str, str], run: str) -> None:
    """Raise UserError unless the data has the checksums of the data that a run was trained on."""
    if data_checksums(data) != checksums:
        raise UserError(f"{data.train.name} is not the data that {run} was trained on: its checksums differ.")
