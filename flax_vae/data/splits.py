"""The parts of a data set by their names: folders such as `Train` and `val`, arrays such as `x_test`."""

import re
from collections.abc import Iterable, Mapping, Sequence

from flax_vae.system.console import log_once
from flax_vae.system.errors import UserError

_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation"),
}
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names}


def split_and_rest(name: str) -> tuple[str | None, str]:
    """Return the split that a name mentions, or None, and the other words: ("test", "x") for "X_test" or "testX"."""
    words = [word.lower() for word in re.findall("[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]
    splits = [_SPLIT_OF[word] for word in words if word in _SPLIT_OF]
    return splits[0] if splits else None, " ".join(word for word in words if word not in _SPLIT_OF)


def one_each(names: Mapping[str, Sequence[str]], where: str) -> dict[str, str]:
    """Return the one name of each split.

    Raises:
        UserError: two names mean the same split.
    """
    for split, same in names.items():
        if len(same) > 1:
            raise UserError(f"{where}: {' and '.join(same)} both mean {split}; rename or remove one.")
    return {split: same for split, (same,) in names.items()}


def train_and_test(names: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the names of the parts "train" and "test", and log what else their names leave open.

    The validation split is the test split of a set that has none.

    Args:
        names: the name of each split.
        where: the name of the set in messages.

    Raises:
        UserError: there is no training split.
    """
    if "train" not in names:
        raise UserError(f"{where} has {', '.join(names.values())}, but no train; name the training images train.")
    parts = {"train": names["train"]}
    if held_out := names.get("test", names.get("validation")):
        parts["test"] = held_out
    if "test" not in names and held_out:
        log_once(f"{where}: {held_out} is used as the test set.")
    elif "validation" in names:
        log_once(f"{where}: {names['validation']} is not used, only {parts['train']} and {parts['test']}.")
    return parts


def log_unused(names: Iterable[str], where: str, why: str = "") -> None:
    """Log the number and the first names of what is not read, if anything."""
    if names := sorted(names):
        more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
        log_once(f"{where}: {len(names):,} not read{why}: {', '.join(names[:5])}{more}.")
