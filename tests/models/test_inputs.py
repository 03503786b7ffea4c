"""Examples of another shape than those of a model.

The kind of fault is an error of Flax or of broadcasting, which names neither the shape that was given nor the one that
the model takes.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax.errors import FlaxError

from flax_vae import (
    ELBO,
    Batch,
    UserError,
    encode,
    init,
    init_state,
    interpolate,
    log_likelihood,
    make_train_step,
    reconstruct,
    traverse,
    tutorial_dense,
)
from flax_vae.metrics.annealed import annealed_log_likelihood
from flax_vae.metrics.latents import elbo_surgery, posterior_means
from flax_vae.metrics.per_example import per_example_statistics

KEY = jax.random.key(0)
MODEL = tutorial_dense((4, 4, 1), features=(3,))
PARAMS = init(MODEL, KEY, (4, 4, 1))


def train(model: nn.Module, params: Any, x: Any) -> Any:
    tx = optax.sgd(1.0)
    return make_train_step(model, ELBO(), tx)(init_state(model, tx, KEY, (4, 4, 1)), x)


USES: dict[str, Callable[[nn.Module, Any, Any], Any]] = {
    "a train step": train,
    "encode": encode,
    "reconstruct": lambda model, params, x: reconstruct(model, params, x, KEY),
    "log_likelihood": lambda model, params, x: log_likelihood(model, params, x, KEY, 30),
    "annealed_log_likelihood": lambda model, params, x: annealed_log_likelihood(model, params, x, KEY, 2, 3),
    "elbo_surgery": lambda model, params, x: elbo_surgery(model, params, x, KEY),
    "posterior_means": posterior_means,
    "per_example_statistics": lambda model, params, x: per_example_statistics(model, params, x, KEY),
    "interpolate": lambda model, params, x: interpolate(model, params, x[0], x[0], 3),
    "traverse": lambda model, params, x: traverse(model, params, x[0]),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.usefixtures("unchecked_types")
def test_examples_of_another_shape_are_refused(use: str) -> None:
    """Images of another size, without channels, or flattened."""
    for shape, given in [((5, 5, 1), "5 x 5 x 1"), ((4, 5), "4 x 5"), ((17,), "17")]:
        x = np.zeros((2, *shape), np.float32)
        with pytest.raises(UserError, match=f"^x has examples of {given}, but the model takes 4 x 4 x 1.$"):
            USES[use](MODEL, PARAMS, x)


@pytest.mark.usefixtures("unchecked_types")
def test_an_error_of_another_kind_is_not_hidden() -> None:
    """Neither one of the model, nor one of examples that have the right shape."""
    for params, x in [({}, np.zeros((2, 4, 4, 1), np.float32)), ({}, np.zeros((2, 5, 5, 1), np.float32))]:
        with pytest.raises(FlaxError):
            encode(MODEL, params, x)
    with pytest.raises(UserError, match=r"x is int32; pass uint8"):
        encode(MODEL, PARAMS, np.zeros((2, 4, 4, 1), np.int32))


def test_a_missing_context_is_refused() -> None:
    """A conditional model cannot learn from examples without their label; every step would be skipped."""
    batch = Batch(np.zeros((2, 4, 4, 1), np.uint8), np.array([[0, 1], [np.nan, np.nan]], np.float32))
    with pytest.raises(UserError, match=r"The context is NaN .*as a view of x with a mask"):
        encode(MODEL, init(MODEL, KEY, (4, 4, 1), 2), batch)


@pytest.mark.usefixtures("unchecked_types")
def test_contexts_do_not_hide_a_shape() -> None:
    params = init(MODEL, KEY, (4, 4, 1), 3)
    batch = Batch(np.zeros((2, 5, 5, 1), np.uint8), np.eye(3, dtype=np.float32)[:2])
    with pytest.raises(UserError, match="x has examples of 5 x 5 x 1, but the model takes 4 x 4 x 1"):
        encode(MODEL, params, batch)


def test_a_checked_function_is_copied_and_pickled_as_functions_are() -> None:
    assert copy.deepcopy(encode) is pickle.loads(pickle.dumps(encode)) is encode
