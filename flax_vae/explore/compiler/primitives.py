"""JAX's primitives as instructions: for each a function of a recorder, the equation and its inputs.

Primitives that only move elements are in `VIEWS` and apply to constants too. Primitives that compute are in `RULES` and
have at least one input that is not constant.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from flax_vae.explore.compiler.memory import Recorder, Shape, Value, allocate, constant
from flax_vae.system.errors import UserError

Rule = Callable[..., Value]

# Maps JAX's name of an elementwise primitive to the engine's.
ELEMENTWISE = {
    **{name: name for name in (
        "abs", "add", "and", "ceil", "cos", "div", "eq", "erf", "erfc", "exp", "expm1", "floor", "ge", "gt", "le",
        "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rem", "rsqrt", "sign",
        "sin", "sqrt", "sub", "tanh", "xor",
    )},
    "add_any": "add",
}  # fmt: skip
_REDUCTIONS = {
    "reduce_sum": ("add", 0.0),
    "reduce_prod": ("mul", 1.0),
    "reduce_max": ("max", -np.inf),
    "reduce_min": ("min", np.inf),
    "reduce_and": ("and", 1.0),
    "reduce_or": ("or", 0.0),
}


def refuse(equation: JaxprEqn, why: str = "") -> UserError:
    """Return a UserError that names the unsupported primitive."""
    name = equation.primitive.name
    return UserError(
        f"explore: the model computes {name!r}{why}, which the page's engine does not support; "
        "rewrite that part of the model without it."
    )


def shape_of(equation: Any) -> Shape:
    """Return the shape of an equation's first output."""
    return equation.outvars[0].aval.shape


def _dtype(equation: Any) -> Any:
    return equation.invars[0].aval.dtype


def reshape(record: Recorder, x: Value, shape: Shape) -> Value:
    """Reshape the value: as a view if possible, else as a copy."""
    try:
        return x.view_as(lambda view: np.reshape(view, shape, copy=False))
    except ValueError:
        dense = constant(x.view) if x.is_constant else record.copy(x)
        return dense.view_as(lambda view: view.reshape(shape))


def _broadcast(_: Recorder, equation: JaxprEqn, x: Value) -> Value:
    shape, kept = shape_of(equation), equation.params["broadcast_dimensions"]
    new = tuple(axis for axis in range(len(shape)) if axis not in kept)
    return x.view_as(lambda view: np.expand_dims(view, new)).broadcast_to(shape)


def _slice(_: Recorder, equation: JaxprEqn, x: Value) -> Value:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(starts)
    return x[tuple(map(slice, starts, limits, strides))]


def _split(_: Recorder, equation: JaxprEqn, x: Value) -> list[Value]:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    ends = np.cumsum(sizes)
    return [x[(slice(None),) * axis + (slice(end - size, end),)] for size, end in zip(sizes, ends, strict=True)]


VIEWS: dict[str, Callable[..., Value | list[Value]]] = {
    **dict.fromkeys(("copy", "copy_p", "optimization_barrier", "stop_gradient"), lambda _, __, *xs: list(xs)),
    **dict.fromkeys(("expand_dims", "reshape", "squeeze"), lambda record, eqn, x: reshape(record, x, shape_of(eqn))),
    "broadcast_in_dim": _broadcast,
    "rev": lambda _, eqn, x: x.view_as(lambda view: np.flip(view, eqn.params["dimensions"])),
    "slice": _slice,
    "split": _split,
    "transpose": lambda _, eqn, x: x.view_as(lambda view: view.transpose(eqn.params["permutation"])),
}


def _elementwise(record: Recorder, equation: JaxprEqn, *ins: Value) -> Value:
    name, integers = equation.primitive.name, jnp.issubdtype(_dtype(equation), jnp.integer)
    if name in ("and", "or", "xor", "not") and integers:
        raise refuse(equation, " of integers")
    op = "quotient" if name == "div" and integers else ELEMENTWISE[name]
    return record.compute(op, shape_of(equation), *ins)


def _convert(record: Recorder, equation: JaxprEqn, x: Value) -> Value:
    """Convert between types: the engine has only float32, so only rounding and comparison take an instruction."""
    old, new = _dtype(equation), equation.params["new_dtype"]
    if jnp.issubdtype(new, jnp.bool_) and old != new:
        return record.compute("ne", shape_of(equation), x, constant(0.0))
    if jnp.issubdtype(new, jnp.integer) and jnp.issubdtype(old, jnp.floating):
        return record.compute("trunc", shape_of(equation), x)
    return x


def _one_minus_square(record: Recorder, equation: JaxprEqn, x: Value) -> Value:
    """Compute 1 - x² as (1 - x) (1 + x), which does not cancel near 1."""
    factors = (record.compute(op, shape_of(equation), constant(1.0), x) for op in ("sub", "add"))
    return record.compute("mul", shape_of(equation), *factors)


def _clamp(record: Recorder, equation: JaxprEqn, low: Value, x: Value, high: Value) -> Value:
    return record.compute("min", shape_of(equation), record.compute("max", shape_of(equation), x, low), high)


def _select(record: Recorder, equation: JaxprEqn, which: Value, *cases: Value) -> Value:
    if len(cases) != 2:
        raise refuse(equation, f" of {len(cases)} cases")
    return record.compute("select", shape_of(equation), which, cases[1], cases[0])


def _reduce(record: Recorder, equation: JaxprEqn, x: Value) -> Value:
    """Reduce by an elementwise operation whose output repeats one element along the reduced axes."""
    op, start = _REDUCTIONS[equation.primitive.name]
    out, axes = record.compute("copy", shape_of(equation), constant(start)), tuple(equation.params["axes"])
    repeated = out.view_as(lambda view: np.expand_dims(view, axes)).broadcast_to(x.view.shape)
    record.emit(op, repeated, repeated, x)
    return out


def _concatenate(record: Recorder, equation: JaxprEqn, *parts: Value) -> Value:
    out, axis, end = allocate(shape_of(equation)), equation.params["dimension"], 0
    for part in parts:
        begin, end = end, end + part.view.shape[axis]
        record.emit("copy", out[(slice(None),) * axis + (slice(begin, end),)], part)
    return out


def _stack(record: Recorder, equation: JaxprEqn, *parts: Value) -> Value:
    out, axis = allocate(shape_of(equation)), equation.params["axis"]
    for number, part in enumerate(parts):
        record.emit("copy", out[(slice(None),) * axis + (number,)], part)
    return out


def _tile(record: Recorder, equation: JaxprEqn, x: Value) -> Value:
    reps, shape = equation.params["reps"], x.view.shape
    both = tuple(size for pair in zip(reps, shape, strict=True) for size in pair)
    apart = x.view_as(lambda view: np.expand_dims(view, tuple(range(0, len(both), 2))))
    return reshape(record, apart.broadcast_to(both), shape_of(equation))


def padded(record: Recorder, x: Value, value: Value, config: tuple[tuple[int, int, int], ...]) -> Value:
    """Pad an array with a value: (before, after, between neighbours) along each axis, as `lax.pad` does."""
    if not any(map(any, config)):
        return x
    shape, sources, targets = [], [], []
    for size, (low, high, between) in zip(x.view.shape, config, strict=True):
        step = between + 1
        length = low + high + (max(size, 1) - 1) * step + min(size, 1)
        # Negative padding cuts off the elements before `first` and from `last` on.
        first, last = max(0, -(low // step)), min(size, (length - 1 - low) // step + 1)
        shape.append(length)
        sources.append(slice(first, max(first, last)))
        targets.append(slice(low + first * step, max(0, low + (last - 1) * step + 1), step))
    out = record.compute("copy", tuple(shape), value)
    record.emit("copy", out[tuple(targets)], x[tuple(sources)])
    return out


def _pad(record: Recorder, equation: JaxprEqn, x: Value, value: Value) -> Value:
    config = equation.params["padding_config"]  # of ints or NumPy integers
    return padded(record, x, value, tuple((int(low), int(high), int(between)) for low, high, between in config))


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "clamp": _clamp,
    "concatenate": _concatenate,
    "convert_element_type": _convert,
    "integer_pow": lambda record, eqn, x: record.compute("pow", shape_of(eqn), x, constant(float(eqn.params["y"]))),
    "one_minus_square": _one_minus_square,
    "pad": _pad,
    "select_n": _select,
    "square": lambda record, eqn, x: record.compute("mul", shape_of(eqn), x, x),
    "stack": _stack,
    "tile": _tile,
}
