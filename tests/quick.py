"""The parameters of a test that the default run of pytest leaves out."""

from collections.abc import Iterable
from typing import Any

import pytest


def first_quick(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Return values, or the items of a dictionary, as parameters of a test; all but the first `count` are slow."""
    items = values.items() if isinstance(values, dict) else ((None, value) for value in values)
    return [
        pytest.param(value, id=name, marks=() if number < count else pytest.mark.slow)
        for number, (name, value) in enumerate(items)
    ]
