"""The settings in which members of an ensemble differ, and the names that follow from them.

Members may differ in their seed, and in floats of the objective and the optimisation. The floats are fields of
`Config`, or arguments of the objective, the optimiser and the schedule: `infovae(weight=10)` and `infovae(weight=100)`.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from itertools import chain
from typing import Any, get_args

from flax_vae.runs.config import PARTS, Config
from flax_vae.system.errors import UserError

SWEPT_PARTS = ("objective", "optimizer", "schedule")  # their arguments may differ
Setting = tuple[str, ...]  # ("beta",), or for an argument of a part ("objective", "weight")
_TRACED = (("learning_rate",), ("beta",), ("seed",))  # arguments of compiled steps; the others are constants
_FIELDS = {"seed"} | {
    field.name
    for field in fields(Config)
    if field.metadata["group"] != "data" and float in (field.type, *get_args(field.type))
}
_ABSENT = "left out"  # in place of the value of an argument that a part does not have


def member_names(configs: Sequence[Config]) -> list[str]:
    """Return the settings in which members differ, as names of their directories: "beta-2-seed-0".

    Raises:
        UserError: they differ in something else, or not at all.
    """
    refused = [item for item in _differing(configs).items() if not _may_differ(*item, configs[0])]
    if refused:  # a part is named rather than a shorthand for its argument
        (field, *argument), values = min(refused, key=lambda item: item[0][0] not in SWEPT_PARTS)
        other = next(i for i, value in enumerate(values) if value != values[0])
        raise UserError(
            "Members of an ensemble may differ in their seed, and in floats of the objective and the optimisation. "
            f"These differ in {' '.join([f'`{field}`', *argument])}: {getattr(configs[0], field)} and "
            f"{getattr(configs[other], field)}."
        )
    words = [[f"{re.sub('[_. ]', '-', name)}-{value:g}" for name, value in each.items()] for each in differing(configs)]
    if len({*map(tuple, words)}) < len(configs):
        raise UserError("Members of an ensemble must differ in their seed or in another setting's first six digits.")
    return ["-".join(each) for each in words]


def members_by_label(configs: Sequence[Config]) -> dict[str, list[int]]:
    """Group members that differ only in their seed: their numbers, by a label like "learning rate 0.001, beta 2"."""
    groups = defaultdict(list)
    for i, values in enumerate(differing(configs)):
        words = [f"{re.sub('[_.]', ' ', name)} {value:g}" for name, value in values.items() if name != "seed"]
        groups[", ".join(words)].append(i)
    return groups


def swept_settings(configs: Sequence[Config]) -> set[str]:
    """Return the fields in which configurations differ."""
    return {field for field, *_ in _differing(configs)}


def step_numbers(configs: Sequence[Config]) -> list[int]:
    """Return the number of each member's compiled step: members that differ only in settings in `_TRACED` share one."""
    steps = [repr({name: value for name, value in _settings(c).items() if name not in _TRACED}) for c in configs]
    order = list(dict.fromkeys(steps))
    return [order.index(step) for step in steps]


def differing(configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Return the numbers in which configurations differ, by name: {"beta": 2.0, "seed": 0} for each.

    An argument of a part goes by its own name, or by its path if that is ambiguous: "optimizer.encoder.learning_rate".
    """
    numbers = {setting: values for setting, values in _differing(configs).items() if _are_numbers(values)}
    taken = [field.name for field in fields(Config)] + [setting[-1] for setting in numbers if len(setting) > 1]
    names = [".".join(setting) if taken.count(setting[-1]) > 1 else setting[-1] for setting in numbers]
    return [dict(zip(names, (values[i] for values in numbers.values()), strict=True)) for i in range(len(configs))]


def _differing(configs: Sequence[Config]) -> dict[Setting, list[Any]]:
    """Return the settings in which configurations differ, with the value of each configuration; the seed comes last."""
    each = [_settings(config) for config in configs]
    *first, seed = _TRACED
    ordered = dict.fromkeys((*first, *(setting for setting in chain(*each) if setting != seed), seed))
    found = {setting: [settings.get(setting, _ABSENT) for settings in each] for setting in ordered}
    return {setting: values for setting, values in found.items() if any(value != values[0] for value in values)}


def _settings(config: Config) -> dict[Setting, Any]:
    """Return all settings; for the parts in `SWEPT_PARTS`, the name and each argument."""
    settings: dict[Setting, Any] = {(field.name,): getattr(config, field.name) for field in fields(config)}
    for kind in SWEPT_PARTS:
        if (call := config.part(kind)) is not None:
            settings |= {(kind, *path): value for path, value in PARTS[kind].settings(call).items()}
    for name in ("beta", "num_samples"):  # shorthands for arguments of the objective
        if getattr(config, name) is not None:
            settings.pop(("objective", name), None)
    return settings


def _may_differ(setting: Setting, values: Sequence[Any], config: Config) -> bool:
    if not _are_numbers(values) or len(setting) == 1:
        return _are_numbers(values) and setting[0] in _FIELDS
    # An integer that is an argument of the user's own part may stand for a float.
    return config.has_own(setting[0]) or float in map(type, values)


def _are_numbers(values: Sequence[Any]) -> bool:
    return {*map(type, values)} <= {int, float}
