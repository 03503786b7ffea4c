"""Beta-binomial pixels."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.levels import BetaBinomial
from flax_vae.models.likelihoods import Mean, inside, likelihood


@likelihood("beta_binomial", BetaBinomial)
@dataclass(frozen=True)
class BetaBinomialLikelihood:
    """The level of a pixel as the number of successes in 255 trials, with a beta-distributed probability."""

    def start(self, mean: Mean) -> Mean:
        """Return log α, then log β, with α + β = 2."""
        mean = inside(mean)
        return tuple(math.log(2 * m) for m in mean) + tuple(math.log(2 * (1 - m)) for m in mean)

    def __call__(self, output: Float[Array, "... o"]) -> BetaBinomial:
        """Map log α and log β to p(x | z)."""
        log_alpha, log_beta = jnp.split(output, 2, axis=-1)
        return BetaBinomial(log_alpha, log_beta)
