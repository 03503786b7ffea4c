"""Every two parts that may meet, beside what test_parts.py trains."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_parts import CORRELATED, KEY, LIKELIHOODS, POSTERIORS, PRIORS

from flax_vae import VAE, Config, init
from flax_vae.objectives.terms import apply_objective
from flax_vae.runs.build import make_objective, make_vae
from flax_vae.runs.config import OBJECTIVES


def pair_configs(objective: str) -> list[Config]:
    """One for each likelihood; over all objectives, every two parts that may meet do."""
    i, together = OBJECTIVES.index(objective), objective not in CORRELATED
    return [
        Config(
            preset="tutorial_dense",
            latent_dim=3,
            likelihood=likelihood,
            prior=PRIORS[(i + j) % 4],
            posterior=POSTERIORS[(i + j + j // 4) % 3] if together else "diagonal",
            levels=1 + (i + j // 2) % 2 if together else 1,
            objective=objective,
            num_samples=2,
        )
        for j, likelihood in enumerate(LIKELIHOODS)
    ]


def _pairs(parts: tuple[Any, ...]) -> set[Any]:
    return set(itertools.combinations(enumerate(parts), 2))


def test_the_pairs_are_all_pairs() -> None:
    met = [(c.likelihood, c.prior, c.posterior, c.levels, c.objective) for o in OBJECTIVES for c in pair_configs(o)]
    product = itertools.product(LIKELIHOODS, PRIORS, POSTERIORS, (1, 2), OBJECTIVES)
    allowed = [parts for parts in product if parts[4] not in CORRELATED or parts[2:4] == ("diagonal", 1)]
    assert set().union(*map(_pairs, met)) == set().union(*map(_pairs, allowed))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_pair_of_parts_has_a_finite_loss_and_gradient(objective: str) -> None:
    """With random parameters, on black, white and grey images; operation by operation, so that little is compiled."""
    images, random = np.repeat(np.uint8([0, 255, 77]), 12).reshape(3, 2, 2, 3), np.random.default_rng(0)
    for config in pair_configs(objective):
        vae, made = make_vae(config, (2, 2, 3)), make_objective(config, 10, 100)(config.beta)
        shapes = jax.eval_shape(lambda vae=vae: init(vae, KEY, (2, 2, 3)))
        params = jax.tree.map(lambda p: jnp.asarray(random.normal(size=p.shape), p.dtype), shapes)

        def loss(params: Any, vae: VAE = vae, made: Any = made) -> jax.Array:
            return apply_objective(vae, made, params, images, KEY, 0)["loss"].mean()

        value, gradient = jax.value_and_grad(loss)(params)
        assert np.isfinite(value), config
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(gradient)), config
