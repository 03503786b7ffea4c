"""The type checker that the import hook of jaxtyping applies to the package; see pyproject.toml."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check arguments and result at each call, except of functions inside others.

    Those are defined anew at every call of the outer function, and compiling their checks each time took a tenth of
    the tests' time.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
