"""Popping random bits draws values, and pushing the values returns the bits."""

import numpy as np
import pytest
import scipy.stats

from flax_vae.compression import stack as stacks
from flax_vae.compression.stack import LIMIT, STEP

RNG = np.random.default_rng(0)
LOC, SCALE = RNG.normal(0, 2, size=(40, 3)), np.exp(RNG.uniform(-4, 0, size=(40, 3)))
LOWER = np.tril(RNG.normal(size=(40, 3, 3)), -1) * SCALE[..., None] + SCALE[..., None] * np.eye(3)


def full() -> stacks.Stack:
    stack = stacks.AnsCoder()
    stacks.fill(stack, 200_000, seed=1)
    return stack


@pytest.mark.parametrize("everywhere", [False, True])
def test_pushing_popped_values_restores_the_stack(everywhere: bool) -> None:
    stack = full()
    before = stack.get_compressed()
    values = stacks.pop_normals(stack, LOC, SCALE, everywhere)
    vectors = stacks.pop_vectors(stack, LOC, LOWER, everywhere)
    choices = stacks.pop_choices(stack, np.array([[1.0, 3.0]] * 50))
    stacks.push_choices(stack, choices, np.array([[1.0, 3.0]] * 50))
    stacks.push_vectors(stack, vectors, LOC, LOWER, everywhere)
    stacks.push_normals(stack, values, LOC, SCALE, everywhere)
    np.testing.assert_array_equal(stack.get_compressed(), before)
    stacks.unfill(stack, 200_000, seed=1)
    assert stack.is_empty()


def test_popped_values_are_normal() -> None:
    values = stacks.pop_normals(full(), np.full(10_000, 0.3), np.full(10_000, 0.1)) * STEP
    continuous = values + RNG.uniform(-STEP / 2, STEP / 2, 10_000)
    assert scipy.stats.kstest(continuous, scipy.stats.norm(0.3, 0.1).cdf).pvalue > 1e-3


def test_popped_vectors_have_the_covariance() -> None:
    lower = np.array([[0.5, 0, 0], [0.3, 0.1, 0], [-0.2, 0.4, 0.3]])
    values = stacks.pop_vectors(full(), np.zeros((5_000, 3)), np.tile(lower, (5_000, 1, 1))) * STEP
    np.testing.assert_allclose(np.cov(values.T), lower @ lower.T, atol=0.02)


def test_a_value_costs_its_information() -> None:
    """Sum -log2 of the normal's probability of each step."""
    stack = full()
    values = stacks.pop_normals(stack, LOC / 2, SCALE)
    before = stack.num_valid_bits()
    stacks.push_normals(stack, values, np.zeros(values.shape), np.ones(values.shape), everywhere=True)
    edges = scipy.stats.norm.cdf((values[..., None] + np.array([-0.5, 0.5])) * STEP)
    expected = -np.log2(np.diff(edges)[..., 0]).sum()
    np.testing.assert_allclose(stack.num_valid_bits() - before, expected, rtol=5e-3)


def test_values_beyond_the_limit_are_clipped() -> None:
    """A latent far from its prior is clipped: the image costs more, and is still restored."""
    stack = full()
    values = stacks.pop_normals(stack, np.full((5, 2), 100.0), np.full((5, 2), 0.01))
    np.testing.assert_array_equal(values, LIMIT - 1)


def test_too_few_bits_raise() -> None:
    stack = stacks.AnsCoder()
    stacks.fill(stack, 10, seed=0)
    with pytest.raises(stacks.Exhausted):
        stacks.pop_normals(stack, LOC, SCALE)
