"""Pytrees: dataclasses that `jax.jit` does not confuse with one another, and trees of arrays by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, dataclass_transform

import jax
from flax import struct
from jax.tree_util import keystr

from flax_vae.system.errors import UserError
from flax_vae.system.settings import methods_by_default

T = TypeVar("T")
Values = tuple[Any, ...]


@dataclass_transform(frozen_default=True, field_specifiers=(struct.field,))
def pytree(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass and a pytree, as `flax.struct.dataclass` does, but never confused with another.

    jaxlib 0.10 compares classes that `jax.tree_util.register_dataclass` registers, as Flax does, by their number of
    fields and their static fields, but not by the class. When hashes collide, `jax.jit` can run the program that it
    compiled for another class. Classes registered with explicit flatten functions are compared by class as well.
    """
    decorated: Any = methods_by_default(dataclass(frozen=True)(cls))
    decorated.replace = replace
    static = [field.name for field in fields(decorated) if not field.metadata.get("pytree_node", True)]
    data = [field.name for field in fields(decorated) if field.name not in static]
    keys = [jax.tree_util.GetAttrKey(name) for name in data]

    def flatten(value: T) -> tuple[Values, Values]:
        return tuple(getattr(value, name) for name in data), tuple(getattr(value, name) for name in static)

    def flatten_with_keys(value: T) -> tuple[Values, Values]:
        leaves, static_values = flatten(value)
        return tuple(zip(keys, leaves, strict=True)), static_values

    def unflatten(static_values: Values, leaves: Any) -> T:
        return decorated(**dict(zip(static, static_values, strict=True)), **dict(zip(data, leaves, strict=True)))

    jax.tree_util.register_pytree_with_keys(decorated, flatten_with_keys, unflatten, flatten)
    return decorated


def names_tree(tree: Any) -> Any:
    """Return the tree with each leaf replaced by its name, such as "encoder.Dense_0.kernel"."""
    return jax.tree.map_with_path(lambda path, _: keystr(path, simple=True, separator="."), tree)


def flatten_by_name(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their names.

    Raises:
        UserError: two of them have the same name.
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = keystr(path, simple=True, separator=".")
        if name in named:
            raise UserError(f"Two arrays are both named {name}, because a key of one contains a dot: rename that key.")
        named[name] = leaf
    return named


def by_name(x: Any, prefix: str = "") -> dict[str, Any]:
    """Return the views of x by name, in a tuple by index; one array is named by the prefix alone.

    Args:
        x: a tuple or a dictionary of views, or one array.
        prefix: the beginning of the names, before a dot.
    """
    if not isinstance(x, tuple | Mapping):
        return {prefix: x}
    views = dict(x) if isinstance(x, Mapping) else dict(enumerate(x))
    return {f"{prefix}.{name}".lstrip("."): view for name, view in views.items()}


def from_names(arrays: Mapping[str, Any], prefix: str = "") -> Any:
    """Return the x that `by_name` turned into these arrays; None if no name has the prefix."""
    if prefix in arrays:
        return arrays[prefix]
    start = f"{prefix}." if prefix else ""
    views = {name.removeprefix(start): arrays[name] for name in arrays if name.startswith(start)}
    return (tuple(views[str(i)] for i in range(len(views))) if "0" in views else views) or None


def map_views(function: Callable[..., Any], x: Any, *others: Any) -> Any:
    """Apply a function to each view of x with those of the same name in the others; to x itself if it is one array."""
    named = [by_name(each) for each in others]
    return from_names({name: function(view, *(each[name] for each in named)) for name, view in by_name(x).items()})
