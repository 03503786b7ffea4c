"""Functions as one flat list of operations with symbolic sizes, for formats other than JAX's."""

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
from flax_vae.jaxprs import apply, interpret, needed
from flax_vae.system.errors import UserError

Shapes = tuple[jax.ShapeDtypeStruct, ...]
Rule = Callable[..., Array]


def free_shapes(function: ModelFunction) -> Shapes:
    """Return the shapes of the arguments, with "b" and "k" as symbolic sizes."""
    scope = SymbolicScope()
    shapes = (", ".join(map(str, argument.shape)) for argument in function.arguments)
    return tuple(jax.ShapeDtypeStruct(symbolic_shape(shape, scope=scope), jnp.float32) for shape in shapes)


def flat_graph(function: Callable[..., Array], shapes: Shapes, rules: Mapping[str, Rule] | None = None) -> ClosedJaxpr:
    """Trace a function with one result, and return its operations.

    Calls are inlined, equal operations are merged, operations on constants are evaluated, and operations that the
    result does not depend on are removed.

    Args:
        function: a function of arrays.
        shapes: the shapes of its arguments.
        rules: replacements for operations, by the name of the primitive: (*arrays, **parameters) -> array.

    Raises:
        UserError: the function needs a fixed size, where one is symbolic.
    """
    try:
        nested = jax.make_jaxpr(function)(*shapes)
    except TypeError as error:
        if "DimExpr" not in str(error):
            raise
        raise UserError(f"A network needs a fixed number of images ({error}): write x.shape[0], not len(x).") from None
    return needed(jax.make_jaxpr(lambda *args: _Flat(rules or {}).results(nested, args))(*shapes))


class _Value(NamedTuple):
    """A value: its symbol in the graph, and its constant if it depends on no argument."""

    symbol: Any
    constant: Any = None
    is_broadcast: bool = False

    @property
    def operand(self) -> Any:
        """The operand to use: the constant, unless it is a broadcast of a smaller one."""
        return self.symbol if self.constant is None or self.is_broadcast else self.constant

    def key(self) -> Any:
        """Return a key that is the same for equal values."""
        if self.constant is None:
            return id(self.symbol)
        array = np.asarray(self.constant)
        return array.shape, str(array.dtype), sha256(array.tobytes()).digest()


class _Flat:
    """Evaluates operations one by one, without duplicates, on symbolic arguments."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self._rules = rules
        self._results: dict[Any, list[_Value]] = {}
        self._alive: list[Any] = []  # keeps symbols alive, so that ids are not reused

    def results(self, nested: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
        """Return the results of a jaxpr, following the calls in it."""
        values = interpret(nested, [_Value(arg) for arg in args], lambda array: _Value(array, array), self._equation)
        return [value.operand for value in values]

    def _equation(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        key = (eqn.primitive.name, *(value.key() for value in inputs), *sorted(eqn.params.items()))
        try:
            if key not in self._results:
                self._results[key] = self._evaluate(eqn, inputs)
            return self._results[key]
        except TypeError:  # a parameter is not hashable
            return self._evaluate(eqn, inputs)

    def _evaluate(self, eqn: JaxprEqn, inputs: list[_Value]) -> list[_Value]:
        symbols = self._bind(eqn, [value.operand for value in inputs])
        self._alive.extend(symbols)
        is_static = all(isinstance(size, int) for symbol in symbols for size in symbol.shape)
        if not inputs or not is_static or any(value.constant is None for value in inputs):
            return [_Value(symbol) for symbol in symbols]
        with jax.ensure_compile_time_eval():
            constants = self._bind(eqn, [value.constant for value in inputs])
        # As a constant, the result of a broadcast would take more space than its operand.
        is_broadcast = eqn.primitive.name == "broadcast_in_dim"
        return [_Value(*pair, is_broadcast) for pair in zip(symbols, constants, strict=True)]

    def _bind(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        rule = self._rules.get(eqn.primitive.name)
        return [rule(*operands, **eqn.params)] if rule else apply(eqn, operands)
