"""Fields of a configuration: each has a group, a default, bounds and a docstring.

A field is None until it is filled in, so that a value that the user gives can be told from the default.
"""

import ast
import functools
import inspect
import operator
import textwrap
from collections.abc import Mapping
from dataclasses import field
from itertools import pairwise
from typing import Any

from flax_vae.literals import LARGEST_FLOAT, LARGEST_INT
from flax_vae.system.errors import UserError

LARGEST_SEED = 2**32 - 1  # JAX would truncate a larger one to 32 bits
_BOUNDS = {  # keywords of `setting`, with the comparison that a value must satisfy and its name in errors
    "least": (operator.ge, "at least"),
    "above": (operator.gt, "greater than"),
    "below": (operator.lt, "below"),
    "most": (operator.le, "at most"),
}


def setting(group: str, usual: Any, **bounds: int | float) -> Any:
    """Define a field. Its docstring is the help of its flag.

    Args:
        group: the group of its flag in the help.
        usual: its default.
        bounds: the bounds of a number: `least` and `most` include the bound, `above` and `below` exclude it.
    """
    return field(default=None, metadata={"group": group, "usual": usual, "bounds": bounds})


def refuse_outside(name: str, value: Any, bounds: Mapping[str, int | float]) -> None:
    """Raise UserError if a number is outside of its bounds, or too large for JAX; other values pass."""
    if type(value) not in (int, float):
        return
    bounds = {**bounds, "most": bounds.get("most", LARGEST_INT if type(value) is int else LARGEST_FLOAT)}
    broken = [f"{_BOUNDS[kind][1]} {bound:,}" for kind, bound in bounds.items() if not _BOUNDS[kind][0](value, bound)]
    if broken:
        raise UserError(f"`{name}` must be {' and '.join(broken)}, not {value}.")


def refuse_seed(name: str, seed: int) -> None:
    """Raise UserError if a seed is negative or too large for JAX."""
    refuse_outside(name, seed, {"least": 0, "most": LARGEST_SEED})


@functools.cache
def docstrings(cls: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass as one line; none if the source code is not installed."""
    try:
        tree: Any = ast.parse(inspect.getsource(cls))
    except OSError:
        return {}
    return {
        ast.unparse(statement.target): " ".join(docstring.value.value.split())
        for statement, docstring in pairwise(tree.body[0].body)
        if isinstance(statement, ast.AnnAssign)
    }


def document(cls: Any, defaults: Mapping[str, Any]) -> None:
    """Show the defaults of a dataclass, whose fields are None, in its signature, and list its fields in its help."""
    init = inspect.signature(cls.__init__)
    shown = [each.replace(default=defaults.get(name, each.default)) for name, each in init.parameters.items()]
    cls.__init__.__signature__, cls.__signature__ = init.replace(parameters=shown), inspect.Signature(shown[1:])
    for name, default in defaults.items():
        setattr(cls, name, default)
    paragraphs = [f"{name}: {text}" for name, text in docstrings(cls).items()]
    lines = [textwrap.fill(text, 100, initial_indent="    ", subsequent_indent=" " * 8) for text in paragraphs]
    cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__), "", "Attributes:", *lines])
