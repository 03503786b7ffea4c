"""Every pair of parts that exchange more than log-densities, in addition to those that test_parts.py trains."""

import contextlib
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parts import CONFIGS, KEY, config_of

from flax_vae import VAE, Config, UserError, init
from flax_vae.fitting.build import make_objective
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS
from flax_vae.objectives import OBJECTIVES
from flax_vae.objectives.base import apply_objective
from flax_vae.runs.models import make_model

pytestmark = pytest.mark.slow

LADDER = "ladder(widths=(4,), depths=(1,), channels=1)"


@functools.cache
def fit_together(posterior: str, levels: int, objective: str, preset: str) -> bool:
    """Return True if a configuration accepts these parts, whatever its likelihood and prior."""
    with contextlib.suppress(UserError):
        config_of("bernoulli", "normal", posterior, levels, objective, preset)
        return (objective, preset) != ("infovae", LADDER)  # InfoVAE compares latent vectors, and refuses maps
    return False


@functools.cache
def covering() -> dict[str, list[Config]]:
    """Return combinations of parts for each objective, which together contain every pair that test_parts.py lacks.

    The exception is pairs of a likelihood and an objective: objectives receive only log-densities of images, and
    test_parts.py has each objective and each likelihood in some combination. The choice is greedy: the combination with
    the largest number of new pairs.
    """

    def pairs_of(parts: tuple[Any, ...]) -> set[Any]:
        return {
            (one, other) for one, other in itertools.combinations(enumerate(parts), 2) if (one[0], other[0]) != (0, 4)
        }

    pairs = {
        parts: pairs_of(parts)
        for parts in itertools.product(LIKELIHOODS, PRIORS, POSTERIORS, (1, 2), OBJECTIVES, ("tutorial_dense", LADDER))
        if fit_together(*parts[2:])
    }
    trained = [(c.likelihood, c.prior, c.posterior, c.levels, c.objective, c.preset) for c in CONFIGS]
    missing = set().union(*pairs.values()).difference(*map(pairs_of, trained))
    chosen = {name: [] for name in OBJECTIVES}
    while missing:
        best = max(pairs, key=lambda parts: len(pairs[parts] & missing))
        missing -= pairs[best]
        chosen[best[-2]].append(config_of(*best))
    return chosen


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pairs_of_parts_have_a_finite_loss_and_gradient(objective: str) -> None:
    """With random parameters, on black, white and grey images."""
    images, random = np.repeat(np.uint8([0, 255, 77]), 12).reshape(3, 2, 2, 3), np.random.default_rng(0)
    for config in covering()[objective]:
        model, made = make_model(config, (2, 2, 3)), make_objective(config, 10, 100)
        shapes = jax.eval_shape(lambda model=model: init(model, KEY, (2, 2, 3)))
        params = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), p.dtype), shapes)

        def loss(params: Any, model: VAE = model, made: Any = made) -> jax.Array:
            return apply_objective(model, made, params, images, KEY, 0)["loss"].mean()

        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        assert np.isfinite(value), config
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(gradient)), config
