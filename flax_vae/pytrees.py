"""Dataclasses that pass through `jax.jit`, each class with programs of its own."""

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, dataclass_transform

import jax
from flax import struct

T = TypeVar("T")
Values = tuple[Any, ...]


@dataclass_transform(frozen_default=True, field_specifiers=(struct.field,))
def pytree(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree, as `flax.struct.dataclass` does, and never mistaken for another.

    Of classes that `jax.tree_util.register_dataclass` registers, as Flax does, jaxlib 0.10 compares how many fields
    they have and what the static ones are, but not the class. Now and then, by their hashes, `jax.jit` then runs for
    one class what it compiled for another. Of classes that are registered with functions it compares the class, too.
    """
    made: Any = dataclass(frozen=True)(cls)
    made.replace = replace
    static = [field.name for field in fields(made) if not field.metadata.get("pytree_node", True)]
    data = [field.name for field in fields(made) if field.name not in static]
    keys = [jax.tree_util.GetAttrKey(name) for name in data]

    def flatten(value: T) -> tuple[Values, Values]:
        return tuple(getattr(value, name) for name in data), tuple(getattr(value, name) for name in static)

    def flatten_with_keys(value: T) -> tuple[Values, Values]:
        leaves, fixed = flatten(value)
        return tuple(zip(keys, leaves, strict=True)), fixed

    def unflatten(fixed: Values, leaves: Any) -> T:
        return made(**dict(zip(static, fixed, strict=True)), **dict(zip(data, leaves, strict=True)))

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made
