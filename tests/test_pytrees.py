"""Dataclasses as pytrees: `jax.jit` never runs the program of one class for another."""

from dataclasses import FrozenInstanceError, replace
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from flax_vae.distributions import (
    Bernoulli,
    BetaBinomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    MultivariateNormal,
    Normal,
)
from flax_vae.pytrees import flatten_by_name, names_tree, pytree


@pytree
class Line:
    """Two numbers and a static name."""

    slope: Any
    name: str = struct.field(pytree_node=False)
    offset: Any = 0.0


def test_a_value_passes_through_jit_with_its_static_fields() -> None:
    line = jax.jit(lambda line: line.replace(slope=2 * line.slope))(Line(3.0, "rising"))
    assert line == Line(6.0, "rising", 0.0)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(line)]
    assert paths == [".slope", ".offset"]
    assert jax.tree.structure(line) != jax.tree.structure(replace(line, name="falling"))
    with pytest.raises(FrozenInstanceError):
        line.slope = 1.0


def test_no_two_distributions_have_the_same_structure() -> None:
    x, logits, vector = jnp.zeros((2, 2, 1)), jnp.zeros((2, 2, 1, 256)), jnp.zeros(3)
    of_one = [Bernoulli(x), ContinuousBernoulli(x), Categorical(logits)]
    of_two = [Normal(x, x, 3), DiscretizedLogistic(x, x), BetaBinomial(x, x), MultivariateNormal(vector, jnp.eye(3))]
    for one, other in combinations(of_one + of_two, 2):
        assert jax.tree.structure(one) != jax.tree.structure(other)


def test_jit_never_takes_one_distribution_for_another() -> None:
    """With Flax's decorator, hashes collide at about six of a thousand sizes."""
    for size in range(1000):
        x, traced = jax.device_put(np.zeros(size, np.float32)), []
        function = jax.jit(lambda p, traced=traced: traced.append(type(p)))
        for p in DiscretizedLogistic(x, x), BetaBinomial(x, x):
            jax.eval_shape(function, p)
        assert traced == [DiscretizedLogistic, BetaBinomial]


def test_leaves_have_the_names_of_their_paths() -> None:
    tree = {"encoder": {"Dense_0": {"kernel": 1, "bias": 2}}, "heads": [3, 4]}
    names = ["encoder.Dense_0.bias", "encoder.Dense_0.kernel", "heads.0", "heads.1"]
    assert jax.tree.leaves(names_tree(tree)) == names
    assert flatten_by_name(tree) == dict(zip(names, (2, 1, 3, 4), strict=True))
