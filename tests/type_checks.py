"""The type checker that the import hook of jaxtyping applies to the package; see pyproject.toml."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def check_types(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and result of every call, except for functions defined inside others.

    Such functions are created at every call of the outer one, and compiling their checks each time took 6 % of the
    tests' time. The shapes inside a train step or an objective's closure are therefore checked only where they enter or
    leave functions at the top of a module, or methods.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
