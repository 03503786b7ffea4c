"""Checks of the batches that users pass to functions of a model: values before the call, shapes if the call fails."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import update_wrapper
from inspect import signature
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from flax.errors import ScopeParamShapeError

from flax_vae import fields
from flax_vae.batches import BatchLike, example_shape, has_views, refuse_outside, shape_text, to_batch
from flax_vae.models.binding import Params, bind
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default

Function = TypeVar("Function", bound=Callable[..., Any])


@contextlib.contextmanager
def checking(
    model: nn.Module, params: Params, *batches: BatchLike, single: bool = False, averaged: bool = False
) -> Iterator[None]:
    """Check batches while a model is applied to them.

    Shapes are compared only if the model raises an exception, since many networks take images of any size. An empty
    batch is likewise refused only if the model raises an exception, or if its examples are averaged.

    Args:
        model, params: the model.
        batches: the batches.
        single: True for single examples, without a batch axis.
        averaged: True if the result is a mean over examples, or is fitted to them, which needs at least one.

    Raises:
        UserError: an array holds values that the likelihood does not take; there are no examples to average; or the
            block raises an exception, and the examples have another shape than those that the model generates, or there
            are none.
    """
    for batch in batches:
        refuse_outside(batch, model)
        if averaged:
            _refuse_empty(batch)
    try:
        yield
    except Exception as error:
        for batch in batches:
            _refuse_other_shape(model, params, batch, single)
            if not single:
                _refuse_empty(batch)
        if isinstance(error, ScopeParamShapeError):  # the first line of its message ends in a link
            reason = str(error).partition(" (http")[0]
            raise UserError(f"x or its context has another shape than the parameters need. {reason}") from None
        raise


def _refuse_empty(batch: BatchLike) -> None:
    if any(leaf.shape[:1] == (0,) for leaf in jax.tree.leaves(to_batch(batch).x)):
        raise UserError("x has no examples: pass at least one.") from None


def _refuse_other_shape(model: nn.Module, params: Params, batch: BatchLike, single: bool) -> None:
    batch = to_batch(batch)

    def mean(params: Params) -> Any:
        context = None if batch.context is None else batch.context[:1]
        return bind(model, params, context).generate(jax.random.key(0), 1).mean()

    try:
        expected = example_shape(jax.eval_shape(mean, params))
        given = jax.tree.map(lambda view: tuple(view.shape), batch.x) if single else example_shape(batch.x)
    except Exception:  # the model cannot generate, or x is not an array: the original error says more
        return
    if given != expected and has_views(given) == has_views(expected):  # for views, the model's error is clearer
        raise UserError(f"x has examples of {shape_text(given)}, but the model takes {shape_text(expected)}.") from None


def checked(
    *batches: str, single: bool = False, averaged: bool = False, **numbers: Mapping[str, int | float]
) -> Callable[[Function], Function]:
    """Return a decorator of jitted functions `(model, params, ...)` that checks arguments before they are traced.

    Args:
        batches: the names of the arguments that are batches, which `checking` checks.
        single, averaged: as for `checking`.
        numbers: the arguments that are numbers, each with its bounds, as for `setting`. JAX arrays are not checked.
    """
    return lambda function: _Checked(function, batches, {"single": single, "averaged": averaged}, numbers)  # type: ignore[return-value]


class _Checked:
    """A jitted function with the checks of `checked`; its attributes are those of the function."""

    def __init__(
        self,
        function: Callable[..., Any],
        batches: tuple[str, ...],
        kind: Mapping[str, bool],
        numbers: Mapping[str, Mapping[str, int | float]],
    ) -> None:
        self._function, self._names = function, list(signature(function).parameters)
        self._batches, self._kind, self._numbers = batches, kind, numbers
        update_wrapper(self, function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __reduce__(self) -> str:
        return self.__qualname__  # copied and pickled by its name, as functions are

    @by_default
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given: dict[str, Any] = dict(zip(self._names, args, strict=False)) | kwargs
        for name, bounds in self._numbers.items():
            number = given.get(name)
            fields.refuse_outside(name, number.item() if isinstance(number, np.generic) else number, bounds)
        model, params, *batches = (given.get(name) for name in ("model", "params", *self._batches))
        with checking(model, params, *batches, **self._kind):  # type: ignore[arg-type]
            return self._function(*args, **kwargs)
