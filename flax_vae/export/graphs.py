"""Functions as one flat list of operations, with sizes that are free, for formats that know nothing of JAX."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import SymbolicScope, symbolic_shape
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jaxtyping import Array

from flax_vae.export.functions import ModelFunction
from flax_vae.jaxprs import interpret, needed

Shapes = tuple[jax.ShapeDtypeStruct, ...]
Rule = Callable[..., Array]
_REPEATS = "broadcast_in_dim"  # its result is larger than what it is made of


def free_shapes(function: ModelFunction) -> Shapes:
    """The shapes of its arguments, "b" and "k" as symbols."""
    scope = SymbolicScope()
    written = (", ".join(map(str, argument.shape)) for argument in function.arguments)
    return tuple(jax.ShapeDtypeStruct(symbolic_shape(shape, scope=scope), jnp.float32) for shape in written)


def flat_graph(function: Callable[..., Array], shapes: Shapes, rules: Mapping[str, Rule] | None = None) -> ClosedJaxpr:
    """The operations of a function with one result.

    Calls are inlined, operations that are equal are merged, those that depend on no argument are carried out, and those
    that the result does not depend on are left out.

    Args:
        function: of arrays.
        shapes: of its arguments.
        rules: by the name of an operation, the same written by others: (*arrays, **parameters) -> array.
    """
    nested = jax.make_jaxpr(function)(*shapes)
    return needed(jax.make_jaxpr(lambda *args: _Flat(rules or {}).results(nested, args))(*shapes))


class _Value(NamedTuple):
    """A value of the graph: what stands for it there, and the value itself where it depends on no argument."""

    symbol: Any
    known: Any = None
    repeats: bool = False

    @property
    def operand(self) -> Any:
        """What operations take: what is known, unless that is a smaller value repeated."""
        return self.symbol if self.known is None or self.repeats else self.known

    def key(self) -> Any:
        """The same for equal values."""
        if self.known is None:
            return id(self.symbol)
        array = np.asarray(self.known)
        return array.shape, str(array.dtype), sha256(array.tobytes()).digest()


class _Flat:
    """Carries operations out one by one, each of them once, on what stands for the arguments."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self._done: dict[Any, list[_Value]] = {}
        self._alive: list[Any] = []  # or a new symbol could have the id of one that is gone

    def results(self, nested: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
        """What a function with calls in it gives."""
        found = interpret(nested, [_Value(arg) for arg in args], lambda array: _Value(array, array), self._equation)
        return [value.operand for value in found]

    def _equation(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        key = (eqn.primitive.name, *(each.key() for each in inputs), *sorted(eqn.params.items()))
        try:
            if key not in self._done:
                self._done[key] = self._carry_out(eqn, inputs)
            return self._done[key]
        except TypeError:  # a parameter has no hash
            return self._carry_out(eqn, inputs)

    def _carry_out(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        symbols = self._bind(eqn, [each.operand for each in inputs])
        self._alive.extend(symbols)
        fixed = all(isinstance(size, int) for symbol in symbols for size in symbol.shape)
        if not inputs or not fixed or any(each.known is None for each in inputs):
            return [_Value(symbol) for symbol in symbols]
        with jax.ensure_compile_time_eval():
            known = self._bind(eqn, [each.known for each in inputs])
        repeats = eqn.primitive.name == _REPEATS
        return [_Value(*pair, repeats) for pair in zip(symbols, known, strict=True)]

    def _bind(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        primitive = eqn.primitive
        carry_out = self._rules.get(primitive.name) or primitive.bind
        found = carry_out(*values, **primitive.get_bind_params(eqn.params))
        return list(found) if primitive.multiple_results else [found]
