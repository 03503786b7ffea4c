"""Literals as arguments of parts: their types, and the numbers that JAX can represent."""

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4e38  # JAX counts and computes in 32 bits
MOST_LAYERS = 100  # each layer is traced and compiled separately, which takes seconds
LayerCount = Annotated[int, "at most MOST_LAYERS"]  # the type of a hyperparameter that counts layers
StepIndex = Annotated[int, "at least 0"]  # the type of a hyperparameter that counts from 0
PLAIN = (bool, int, float, str, type(None))


def as_type(value: Any, hint: Any) -> Any:
    """Check a value against a type; an integer becomes a float where a float is expected.

    Raises:
        TypeError: the value has another type; the message completes "<name> ...".
    """
    if get_origin(hint) is Annotated:
        hint, *_ = get_args(hint)
    if not _has_type(value, hint):
        raise TypeError(f"is {value!r:.200}, which is not {_type_name(hint)}")
    options = get_args(hint) or (hint,)
    if type(value) is not int or float not in options or int in options:
        return value
    if abs(value) > LARGEST_FLOAT:
        raise TypeError(f"is {value!s:.20}..., which is too large for a float")
    return float(value)


def refuse_out_of_range(value: Any, hint: Any) -> None:
    """Raise ValueError unless integers are positive and JAX can represent all numbers.

    The message completes "<name> ...".
    """
    bounds = (hint, *get_args(hint))
    largest, smallest = MOST_LAYERS if LayerCount in bounds else LARGEST_INT, 0 if StepIndex in bounds else 1
    for number in value if isinstance(value, tuple) else (value,):
        least, most = (smallest, largest) if type(number) is int else (-LARGEST_FLOAT, LARGEST_FLOAT)
        if type(number) in (int, float) and not least <= number <= most:
            raise ValueError(f"must be at least {least:,} and at most {most:,}")


def _has_type(value: Any, hint: Any) -> bool:
    """Check a value against a plain type, a choice, a tuple of one type, or a union; other types are not checked."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _has_type(value, options[0])
    if origin is Literal:
        return value in options
    if origin is tuple:
        return type(value) is tuple and all(_has_type(item, options[0]) for item in value)
    if origin in (Union, UnionType):
        plain = [option for option in options if option in PLAIN]
        return not plain or any(_has_type(value, option) for option in plain)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint if hint in PLAIN else True


def _type_name(hint: Any) -> str:
    """Name a type in an error: "int", "str or None", "one of mean, draw"."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin is tuple:
        return f"a tuple of {_type_name(options[0])}"
    names = [option.__name__ for option in options or (hint,) if option in PLAIN]
    return " or ".join(names).replace("NoneType", "None")
