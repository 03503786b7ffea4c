"""JAX's settings: results do not depend on what the program around the package has set.

`jax_enable_x64`, `jax_numpy_dtype_promotion` and `jax_numpy_rank_promotion` change how a function is traced: which type
a new array has, and which operands are refused. `jax_transfer_guard` refuses NumPy arrays as arguments, and constants
outside `jax.jit`. The package is written for the defaults, and so are Optax and Flax. Its functions are therefore
called with the defaults, also inside a larger program that is traced with other settings.
"""

import threading
from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from flax_vae.system.errors import UserError
from flax_vae.system.machine import describe_missing_device

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)
_OF_JITTED = ("lower", "trace", "eval_shape", "clear_cache", "_cache_size")  # attributes of a jitted function
_TRANSFER_GUARDS = [f"jax_transfer_guard_{way}" for way in ("host_to_device", "device_to_host", "device_to_device")]


class _Thread(threading.local):
    """State of a thread: `wide` is True inside a function that computes in float64, so that all it calls does."""

    wide = False


_thread = _Thread()


def by_default(function: Function) -> Function:
    """Decorate a function to be called with JAX's default settings, whatever the program has set.

    The function computes in 32 bits. It computes in 64 bits if the program has set `jax_enable_x64` and one of the
    arguments, or a parameter of the bound module that is called, is a float64 array of JAX: as JAX has such arrays only
    with this setting, they are intended. Those of NumPy are converted to float32, as by default. The function may
    transfer its arguments and constants to the device, even if `jax_transfer_guard` forbids implicit transfers.

    Raises:
        UserError: JAX has no device of a kind in JAX_PLATFORMS.
    """

    @wraps(function)
    def called_by_default(*args: Any, **kwargs: Any) -> Any:
        try:
            if _are_default():
                return function(*args, **kwargs)
            return _call_by_default(function, *args, **kwargs)
        except (AssertionError, RuntimeError) as error:
            if (line := describe_missing_device(error)) is None:
                raise
            raise UserError(line) from None

    for name in _OF_JITTED:
        if hasattr(function, name):
            setattr(called_by_default, name, getattr(function, name))
    return called_by_default  # type: ignore[return-value]


def _are_default() -> bool:
    """Return True if no setting has to be changed for a function of the package."""
    config: Any = jax.config
    types = config.jax_numpy_dtype_promotion == "standard" and config.jax_numpy_rank_promotion == "allow"
    transfers = all(getattr(config, name) in (None, "allow") for name in _TRANSFER_GUARDS)
    return types and transfers and (not config.jax_enable_x64 or _thread.wide)


def _call_by_default(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    x64: bool = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    before, _thread.wide = _thread.wide, x64 and (_thread.wide or _has_float64((args, kwargs)))
    try:
        with (
            jax.enable_x64(_thread.wide),
            jax.numpy_dtype_promotion("standard"),
            jax.numpy_rank_promotion("allow"),
            jax.transfer_guard("allow"),
        ):
            return function(*args, **kwargs)
    finally:
        _thread.wide = before


def with_nan(function: Function) -> Function:
    """Decorate a function whose results may be NaN by design, which `jax_debug_nans` would refuse."""

    @wraps(function)
    def with_nan_allowed(*args: Any, **kwargs: Any) -> Any:
        with jax.debug_nans(False):
            return function(*args, **kwargs)

    return with_nan_allowed  # type: ignore[return-value]


def methods_by_default(cls: Class) -> Class:
    """Decorate the methods and properties that a class defines, except special methods: see `by_default`."""
    for name, method in list(vars(cls).items()):
        if isinstance(method, FunctionType) and (name == "__call__" or not name.startswith("__")):
            setattr(cls, name, by_default(method))
        elif isinstance(method, property) and method.fget is not None:
            setattr(cls, name, method.getter(by_default(method.fget)))
    return cls


def _has_float64(tree: Any) -> bool:
    """Return True if a leaf is a float64 array of JAX, or a module with such a parameter."""
    return any(
        _has_float64(leaf.scope.variables())
        if getattr(leaf, "scope", None) is not None
        else isinstance(leaf, jax.Array) and leaf.dtype == jnp.float64 and not leaf.weak_type
        for leaf in jax.tree.leaves(tree)
    )
