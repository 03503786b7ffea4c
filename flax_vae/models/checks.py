"""Checks of the networks that users bring, made once, when a model is built or traced. Each names what is wrong."""

import inspect
import operator
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import flax.linen as nn
import jax

from flax_vae.batches import are_views
from flax_vae.calls import OF_LINEN
from flax_vae.pytrees import by_name
from flax_vae.system.errors import UserError

_ADAPTERS = {"flax.nnx": "from_nnx", "equinox": "from_equinox"}
_FLAGS = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_OTHERS = ("haiku", "keras", "torch", "tensorflow")


def freeze_networks(model: nn.Module, **inputs: int) -> None:
    """Replace the networks of a new model by copies that can be hashed, with lists, sets and dictionaries frozen.

    Args:
        model: the model, before Linen's own `__post_init__`.
        inputs: the names of its networks, with their numbers of inputs.

    Raises:
        UserError: a network is not a Linen module, has further inputs without a default, or an argument that tells
            training from evaluation.
    """
    for name, count in inputs.items():
        network = _require_linen(type(model).__name__, name, getattr(model, name))
        arguments = [*inspect.signature(type(network).__call__).parameters.values()][1 + count :]
        for argument in arguments:
            if argument.name in _FLAGS and type(network).__module__.partition(".")[0] != "flax":
                raise UserError(
                    f"{type(model).__name__}.{name} takes {argument.name}, which tells training from evaluation: "
                    f"wrap it as flax_vae.with_train({type(network).__name__}(...), "
                    f"{argument.name}={_FLAGS[argument.name]})."
                )
            if argument.default is argument.empty and argument.kind not in _VARIADIC:
                raise UserError(
                    f"{type(model).__name__}.{name} is called with its input only, but requires {argument.name}: "
                    f"give {argument.name} a default."
                )
        object.__setattr__(model, name, _frozen(network))


def _require_linen(owner: str, name: str, network: Any) -> nn.Module:
    if isinstance(network, nn.Module):
        return network
    advice = "write a Linen module"
    if library := _library(network):
        adapter = _ADAPTERS.get(library)
        advice = f"wrap its class by flax_vae.{adapter}(MyNetwork, ...)" if adapter else advice
    kind = f"an object of {library}" if library else f"a {type(network).__name__}"
    raise UserError(f"{owner}.{name} is {kind}, whose parameters would not be trained: {advice}.")


def _library(value: Any) -> str | None:
    """Return the library that a network is written in, if it is not Linen."""
    modules = [f"{kind.__module__}." for kind in type(value).__mro__]
    for library in (*_ADAPTERS, *_OTHERS):
        if any(module.startswith(f"{library}.") for module in modules):
            return library
    return None


def _frozen(value: Any) -> Any:
    """Return a field's value with lists, sets and dictionaries frozen; the same object if nothing changes."""
    if isinstance(value, nn.Module):
        old = {name: getattr(value, name) for name in _fields(value)}
        changed = {name: new for name, item in old.items() if (new := _frozen(item)) is not item}
        return value.clone(**changed) if changed else value
    if isinstance(value, list) or type(value) is tuple:
        items = tuple(map(_frozen, value))
        return value if type(value) is tuple and all(map(operator.is_, items, value)) else items
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, Mapping) and not isinstance(value, nn.FrozenDict):
        return nn.FrozenDict({key: _frozen(item) for key, item in value.items()})
    return value


def _fields(module: nn.Module) -> list[str]:
    return [field.name for field in fields(module) if field.init and field.name not in OF_LINEN]


def refuse_unhashable(model: Any, where: str = "") -> None:
    """Raise UserError at the first field that cannot be a static argument, or whose parameters would not be trained.

    Args:
        model: the model, or a part of it.
        where: the name of the part.
    """
    where = where or type(model).__name__
    if isinstance(model, nn.Module):
        for name in _fields(model):
            refuse_unhashable(getattr(model, name), f"{where}.{name}")
    elif isinstance(model, tuple):
        for number, item in enumerate(model):
            refuse_unhashable(item, f"{where}[{number}]")
    elif not isinstance(model, type) and (library := _library(model)):
        raise UserError(f"{where} is an object of {library}, whose parameters would not be trained.")
    else:
        try:
            hash(model)
        except TypeError:
            advice = "use a tuple" if isinstance(model, list) else "make it inside the module, or a parameter"
            kind = "an array" if hasattr(model, "shape") else f"a {type(model).__name__}"
            raise UserError(f"{where} is {kind}, which cannot be hashed: {advice}.") from None


def refuse_other_parts(model: Any) -> None:
    """Raise UserError for a likelihood that is not a head, or a posterior and a prior of other sizes."""
    for where, head in by_name(model.likelihood, f"{type(model).__name__}.likelihood").items():
        if not callable(head) or (isinstance(head, type) and hasattr(head, "start")):
            name = repr(head) if isinstance(head, str) else getattr(head, "__name__", head)
            raise UserError(f"{where} is {name}: pass a head, such as BernoulliLikelihood().")
    sizes = [getattr(part, "latent_dim", None) for part in (model.posterior, model.prior)]
    if None not in sizes and sizes[0] != sizes[1]:
        kind = type(model).__name__
        raise UserError(f"{kind}.posterior has {sizes[0]} latents, but {kind}.prior has {sizes[1]}: use one number.")


def require_array(value: Any, ndim: int | None, axes: str, what: str) -> jax.Array:
    """Return the output of a network.

    Args:
        value: the output.
        ndim: its number of axes; None for any.
        axes: the axes, for error messages.
        what: the network, for error messages.

    Raises:
        UserError: not an array, or one with another number of axes.
    """
    shape = getattr(value, "shape", None)
    if shape is None or len(shape) != (ndim or len(shape)):
        returned = f"a {type(value).__name__}" if shape is None else f"an array of shape {tuple(shape)}"
        raise UserError(f"The {what} returned {returned}; it must return one array {axes}.")
    return value


def require_one_array(x: Any, model: nn.Module) -> Any:
    """Return x.

    Raises:
        UserError: x is not one array, but a tuple or a dictionary of views.
    """
    if hasattr(x, "shape"):
        return x
    raise UserError(
        f"x is a {type(x).__name__}, but {type(model).__name__} takes one array: pass the context of a conditional "
        "model by Batch(x, context), and several views to a model with a `likelihood` for each."
    )


def require_views(what: str, views: Any, likelihood: Any) -> Any:
    """Return views.

    Raises:
        UserError: they do not have the names of the model's likelihoods.
    """
    given, expected = by_name(views), by_name(likelihood)
    if given.keys() == expected.keys():
        return views
    kind = f"has the views {', '.join(given)}" if are_views(views) else f"is a {type(views).__name__}"
    raise UserError(
        f"{what} {kind}, but the model's `likelihood` has the views {', '.join(expected)}: use the same views for both."
    )


def refuse_other_output(likelihood: Any, output: tuple[int, ...], x: tuple[int, ...]) -> None:
    """Raise UserError if a decoder's output does not fit x.

    Args:
        likelihood: the head, whose `start` has a value for each channel of the output; for others, only the number of
            axes is checked.
        output: the shape of the output for one latent, such as "h w o" or "o".
        x: the shape of an example, such as "h w c" or "v".
    """
    expected: tuple[int, ...] | None = None
    if hasattr(likelihood, "start"):
        expected = (*x[:-1], len(likelihood.start((0.5,) * x[-1])))
    if len(output) != len(x) or output != (expected or output):
        taken = f"{type(likelihood).__name__} takes {expected}" if expected else f"{len(x)} axes are needed"
        raise UserError(
            f"The decoder returned an array of shape {output} for each latent, but for examples of shape {x} {taken}."
        )
