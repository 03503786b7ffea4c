"""The engine computes every instruction like JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from jax import lax

from flax_vae.explore import graph, program

Run = Callable[..., list[np.ndarray]]
RANDOM = np.random.default_rng(0)
X, Y = (RANDOM.normal(size=(2, 3, 4)).astype(np.float32) for _ in range(2))
POSITIVE, UNIT = np.exp(X), np.float32(0.999) * np.tanh(X)
IMAGE = RANDOM.normal(size=(1, 7, 6, 4)).astype(np.float32)
WEIGHTS = RANDOM.normal(size=(4, 5)).astype(np.float32)
NUMBER = np.float32(2)


def _convolved(x: Any, kernel_shape: tuple[int, ...], **how: Any) -> Any:
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=kernel_shape), jnp.float32)
    how = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")} | how
    return lax.conv_general_dilated(x, kernel, **how)


def _counted(x: Any, n: Any) -> Any:
    """Loop a number of times given by an input."""
    return lax.while_loop(lambda both: both[1] > 0, lambda both: (both[0] * 0.5 + 1, both[1] - 1), (x, n))[0]


def _exchanged(x: Any, y: Any) -> Any:
    """Swap two arrays in a loop, reversing one of them."""
    return lax.fori_loop(0, 3, lambda i, both: (both[1], both[0][::-1] + i), (x, y))


def _nested(x: Any) -> Any:
    def inner(total: Any, row: Any) -> Any:
        return lax.scan(lambda sum_, each: (sum_ + jnp.sin(each), sum_ * each), total, row)

    return lax.scan(inner, jnp.zeros(x.shape[2:]), x, reverse=True)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    **{name: (getattr(jnp, name), (X,)) for name in ("abs", "ceil", "cos", "exp", "expm1", "floor", "sign", "sin")},
    **{name: (getattr(jnp, name), (POSITIVE,)) for name in ("log", "log1p", "sqrt")},
    **{name: (getattr(lax, name), (X, Y)) for name in ("add", "div", "max", "min", "mul", "rem", "sub")},
    "pow": (jnp.power, (POSITIVE, Y)),
    "rsqrt": (lax.rsqrt, (POSITIVE,)),
    "erf": (lax.erf, (np.linspace(-4, 4, 101, dtype=np.float32),)),
    "erfc": (lax.erfc, (np.linspace(-4, 4, 101, dtype=np.float32),)),
    "ndtr": (jsp.special.ndtr, (3 * X,)),
    "tanh": (jnp.tanh, (X,)),
    "logistic": (jax.nn.sigmoid, (100 * X,)),
    "negative": (lambda x: -x, (X,)),
    "integer powers": (lambda x: (x**2, x**3, x**-1), (X,)),
    "square": (lax.square, (X,)),
    "clip": (lambda x: jnp.clip(x, -0.5, 0.3), (X,)),
    "where": (lambda x, y: jnp.where((x > y) | ~(x <= 0) & (y != x) ^ (x >= 1) & (y < 1), x, y), (X, Y)),
    "equal": (lambda x: (jnp.floor(x) == 0).astype(float), (X,)),
    "whole numbers": (lambda x: ((10 * x).astype(int) // 3, (10 * x).astype(int) % 3, x.astype(bool)), (X,)),
    "softmax": (jax.nn.softmax, (X,)),
    "softplus": (jax.nn.softplus, (X,)),
    "gelu": (lambda x: (jax.nn.gelu(x), jax.nn.gelu(x, approximate=False), jax.nn.elu(x), jax.nn.silu(x)), (X,)),
    "standardised": (lambda x: jax.nn.standardize(x, axis=(0, 2)), (X,)),
    "sums": (lambda x: (x.sum(), x.sum(0), x.sum((0, 2)), x.sum(-1, keepdims=True)), (X,)),
    "extremes": (lambda x: (x.max(1), x.min((0, 2)), x.prod(-1), (x > 0).all(0), (x > 0).any(2)), (X,)),
    "shapes": (lambda x: (x.reshape(6, 4), x.T, x.T.reshape(-1), x[None, :, 0]), (X,)),
    "copies": (lambda x: (x.transpose(1, 0, 2).reshape(3, 8), x[::-1].reshape(3, 2, 4)), (X,)),
    "slices": (lambda x: (x[::-1, 1:, ::2], x[..., -1], jnp.split(x, 2, -1), jnp.flip(x)), (X,)),
    "broadcasts": (lambda x, y: x[:, :1] + y[:1] * x[..., :1].sum(), (X, Y)),
    "tiled": (lambda x: (jnp.tile(x, (2, 1, 3)), jnp.repeat(x, 2, 1)), (X,)),
    "joined": (lambda x, y: (jnp.concatenate([x, y[:, :1], x], 1), jnp.stack([x, y], 2)), (X, Y)),
    "padded": (lambda x: lax.pad(x, jnp.exp(1.0), ((1, 2, 0), (-1, 3, 2), (2, -3, 1))), (X,)),
    "cut to nothing": (lambda x: (lax.pad(x, 1.0, ((-3, 4, 0), (0, 0, 0), (0, 0, 0))), x[:0].sum(0)), (X,)),
    "matrices": (lambda x: (x @ WEIGHTS, WEIGHTS.T @ x[0].T, x.reshape(-1) @ x.reshape(-1)), (X,)),
    "products": (lambda x, y: (jnp.einsum("abc,dbc->bad", x, y), jnp.einsum("abc,abd->acd", x, y)), (X, Y)),
    "vectors": (lambda x, y: (x[0, 0] @ y[1].T, x[0] @ y[1, 1]), (X, Y)),
    "outer": (lambda x, y: jnp.einsum("a,b->ab", x.reshape(-1), y.reshape(-1)), (X, Y)),
    "broadcast factors": (lambda x: jnp.broadcast_to(x[:1], (3, 3, 4)) @ jnp.ones((4, 2)), (X,)),
    "convolution": (lambda x: _convolved(x, (3, 3, 4, 5)), (IMAGE,)),
    "even kernel": (lambda x: _convolved(x, (2, 4, 4, 3)), (IMAGE,)),
    "valid": (lambda x: _convolved(x, (3, 2, 4, 3), padding="VALID"), (IMAGE,)),
    "strides": (lambda x: _convolved(x, (3, 3, 4, 3), window_strides=(2, 3)), (IMAGE,)),
    "dilated kernel": (lambda x: _convolved(x, (3, 3, 4, 3), rhs_dilation=(2, 1)), (IMAGE,)),
    "transposed": (
        lambda x: _convolved(x, (3, 3, 4, 3), padding=((2, 1), (1, 2)), lhs_dilation=(2, 2)),
        (IMAGE,),
    ),
    "groups": (lambda x: _convolved(x, (3, 3, 2, 6), feature_group_count=2), (IMAGE,)),
    "depthwise": (lambda x: _convolved(x, (3, 3, 1, 8), feature_group_count=4), (IMAGE,)),
    "channels first": (
        lambda x: _convolved(x, (5, 4, 3, 3), dimension_numbers=("NCHW", "OIHW", "NCHW")),
        (IMAGE.transpose(0, 3, 1, 2),),
    ),
    "along a line": (
        lambda x: _convolved(x, (3, 4, 2), window_strides=(2,), dimension_numbers=("NHC", "HIO", "NHC")),
        (IMAGE[0],),
    ),
    "looked up": (lambda x, n: (x[n.astype(int) - 1], x[:, n.astype(int), None]), (X, NUMBER)),
    "out of range": (lambda x, n: lax.dynamic_slice(x, (n.astype(int), 0, -n.astype(int)), (1, 2, 2)), (X, NUMBER)),
    "taken": (lambda x, y: jnp.take_along_axis(x, (jnp.abs(y) * 10).astype(int) % 3, axis=1), (X, Y)),
    "gathered": (lambda x, y: x[:, (jnp.abs(y[0, 0]) * 10).astype(int) % 3], (X, Y)),
    "set": (lambda x, n: x.at[:, n.astype(int)].set(0.0).at[..., 1].set(x[..., 0]), (X, NUMBER)),
    "set in slices": (lambda x, n: lax.dynamic_update_slice(x, 2 * x[:1, :2], (1, n.astype(int), 0)), (X, NUMBER)),
    "set at scattered places": (lambda x, y: x.at[jnp.array([1, 0]), jnp.array([2, 0])].set(y[0, :2]), (X, Y)),
    "set in a constant": (lambda y: jnp.zeros((4, 4)).at[1, 1:].set(y[0, 0, 1:]), (Y,)),
    "for": (lambda x: lax.fori_loop(0, 5, lambda i, x: x * 0.5 + i, x), (X,)),
    "while": (_counted, (X, NUMBER)),
    "exchanged": (_exchanged, (X, Y)),
    "nested loops": (_nested, (X,)),
    "platform": (lambda x: lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos), (X,)),
    "derivatives": (lambda x: jax.jacfwd(lambda x: jnp.tanh(x) @ WEIGHTS)(x[0, 0]), (X,)),
    "gradient": (jax.grad(lambda x: jnp.sum(jax.nn.silu(x) @ WEIGHTS) ** 2), (X,)),
    "constant": (lambda x: (jnp.arange(12).reshape(3, 4) * 2.0, x, x), (X,)),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(open_page: Callable[..., Run]) -> Run:
    """Open all functions in one page."""
    return open_page(program({name: graph(function, *inputs) for name, (function, inputs) in FUNCTIONS.items()}))


@pytest.fixture(scope="module")
def expected() -> dict[str, list[np.ndarray]]:
    """Compute all functions by JAX, compiled together."""

    def every(inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: jax.tree.leaves(function(*inputs[name])) for name, (function, _) in FUNCTIONS.items()}

    actual = jax.jit(every)({name: inputs for name, (_, inputs) in FUNCTIONS.items()})
    return jax.tree.map(lambda each: np.asarray(each, np.float32), actual)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_computes_the_same_as_jax(name: str, run: Run, expected: dict[str, list[np.ndarray]]) -> None:
    for _ in range(2):  # a run leaves nothing behind for the next
        for actual, each in zip(run(name, *FUNCTIONS[name][1]), expected[name], strict=True):
            np.testing.assert_allclose(actual, each, rtol=1e-5, atol=1e-5)


def test_an_input_of_another_size_is_an_error(run: Run) -> None:
    with pytest.raises(Exception, match=r"input 0 must have the shape \[2,3,4\]"):
        run("exp", X[0])
