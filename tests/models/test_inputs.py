"""Examples of another shape than those of a model, and batches without examples.

The kind of fault is an error of Flax or of broadcasting, which names neither the shape that was given nor the one that
the model takes.
"""

import copy
import pickle
from collections.abc import Callable
from functools import partial
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
    decode,
    encode,
    init,
    init_state,
    interpolate,
    log_likelihood,
    make_train_step,
    reconstruct,
    residual_conv,
    sample_gmm,
    traverse,
    tutorial_conv,
    tutorial_dense,
)
from flax_vae.metrics.annealed import annealed_log_likelihood
from flax_vae.metrics.latents import elbo_surgery, posterior_means
from flax_vae.metrics.per_example import per_example_statistics

KEY = jax.random.key(0)
MODEL = tutorial_dense((4, 4, 1), features=(3,))
PARAMS = init(MODEL, KEY, (4, 4, 1))


class Flattening(nn.Module):
    """An encoder as most people write it."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Return features "b f"."""
        return nn.Dense(3)(x.reshape((len(x), -1)))


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


OF_EXAMPLES = {
    "encode": lambda model, params, x: encode(model, params, x).mean(),
    "decode": lambda model, params, x: decode(model, params, np.zeros((len(x), 2), np.float32)),
    "reconstruct": USES["reconstruct"],
    "log_likelihood": USES["log_likelihood"],
}
OF_SEVERAL = {
    "a train step": train,
    "elbo_surgery": USES["elbo_surgery"],
    "posterior_means": posterior_means,
    "per_example_statistics": USES["per_example_statistics"],
    "sample_gmm": lambda model, params, x: sample_gmm(model, params, x, KEY, 3),
}
NONE = np.zeros((0, 4, 4, 1), np.float32)


@pytest.mark.parametrize("use", OF_EXAMPLES)
def test_a_batch_without_examples_has_an_empty_result(use: str) -> None:
    """A function of each example returns what it returns for two, with 0 in place of 2."""
    of_none, of_two = (
        jax.eval_shape(partial(OF_EXAMPLES[use], MODEL), PARAMS, np.zeros((n, 4, 4, 1), np.float32)) for n in (0, 2)
    )
    expected = jax.tree.map(lambda leaf: (0, *leaf.shape[1:]), of_two)
    assert jax.tree.map(lambda leaf: leaf.shape, of_none) == expected
    assert len(jax.tree.leaves(OF_EXAMPLES[use](MODEL, PARAMS, NONE))[0]) == 0


@pytest.mark.parametrize("use", OF_SEVERAL)
def test_a_batch_without_examples_has_no_mean(use: str) -> None:
    """The kind: a mean over no examples, which is NaN, a skipped step, or a traceback."""
    with pytest.raises(UserError, match=r"^x has no examples: pass at least one\.$"):
        OF_SEVERAL[use](MODEL, PARAMS, NONE)


def test_every_preset_encodes_a_batch_without_examples() -> None:
    """A network of one's own need not: a reshape to (b, -1) is refused in one line."""
    for make in (tutorial_dense, tutorial_conv, residual_conv):
        model = make((8, 8, 1))
        params = jax.eval_shape(lambda model=model: init(model, KEY, (8, 8, 1)))
        x = np.zeros((0, 8, 8, 1), np.float32)
        assert jax.eval_shape(partial(OF_EXAMPLES["encode"], model), params, x).shape[0] == 0
    with pytest.raises(UserError, match="x has no examples"):
        encode(MODEL.clone(encoder=Flattening()), PARAMS, NONE)


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
