"""Likelihoods of observed values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from flax_vae import (
    Bernoulli,
    BetaBinomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    MixtureOfLogistics,
    NegativeBinomial,
    Normal,
    Poisson,
    UserError,
)
from flax_vae.distributions.masked import Masked, masked

RNG = np.random.default_rng(0)
SHAPE = (2, 3, 4)
X, OBSERVED = jnp.asarray(RNG.integers(0, 2, SHAPE).astype(np.float32)), jnp.asarray(RNG.random(SHAPE) > 0.5)
A, B = jnp.asarray(RNG.normal(size=(2, *SHAPE)).astype(np.float32))
DISTRIBUTIONS: dict[str, Any] = {
    "Bernoulli": Bernoulli(A, 2),
    "ContinuousBernoulli": ContinuousBernoulli(A, 2),
    "Normal": Normal(A, B, 2),
    "Poisson": Poisson(A, 2),
    "NegativeBinomial": NegativeBinomial(A, B, 2),
    "DiscretizedLogistic": DiscretizedLogistic(A, B, 2),
    "BetaBinomial": BetaBinomial(A, B, 2),
    "Categorical": Categorical(jnp.asarray(RNG.normal(size=(*SHAPE, 256)).astype(np.float32)), 2),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_mask_leaves_values_out_of_the_sum(name: str) -> None:
    """The masks of single values add up to the full density; a masked value has no effect and no gradient."""
    p = DISTRIBUTIONS[name]
    np.testing.assert_allclose(Masked(p, jnp.ones(SHAPE, bool)).log_prob(X), p.log_prob(X), rtol=1e-5)
    both = Masked(p, OBSERVED).log_prob(X) + Masked(p, ~OBSERVED).log_prob(X)
    np.testing.assert_allclose(both, p.log_prob(X), rtol=1e-5)
    np.testing.assert_array_equal(
        Masked(p, OBSERVED).log_prob(X), Masked(p, OBSERVED).log_prob(jnp.where(OBSERVED, X, 1 - X))
    )
    slopes = jax.grad(lambda p: Masked(p, OBSERVED).log_prob(X).sum())(p)
    for slope in jax.tree.leaves(slopes):
        assert np.isfinite(slope).all()
        assert not slope[~OBSERVED].any()
        assert slope[OBSERVED].any()


def test_the_observed_values_of_a_normal_have_scipys_density() -> None:
    each = scipy.stats.norm(A, np.exp(B)).logpdf(X)
    np.testing.assert_allclose(Masked(Normal(A, B, 2), OBSERVED).log_prob(X), (each * OBSERVED).sum((1, 2)), rtol=1e-5)


def test_a_mask_broadcasts_over_samples_and_leaves_draws_and_means_complete() -> None:
    p = Normal(jnp.stack([A, B]), jnp.stack([B, A]), 2)
    assert Masked(p, OBSERVED).log_prob(X).shape == (2, 2)
    np.testing.assert_array_equal(Masked(p, OBSERVED).mean(), p.mean())
    np.testing.assert_array_equal(Masked(p, OBSERVED).sample(jax.random.key(0)), p.sample(jax.random.key(0)))


def test_values_that_depend_on_each_other_cannot_be_left_out() -> None:
    mixture = MixtureOfLogistics(jnp.zeros((2, 2, 5)), *jnp.zeros((2, 2, 2, 1, 5)), jnp.zeros((2, 2, 1, 1, 5)))
    assert masked(mixture, None) is mixture
    with pytest.raises(
        UserError, match="independent values, with a method marginals, which MixtureOfLogistics does not have"
    ):
        masked(mixture, jnp.ones((2, 2, 1), bool))
