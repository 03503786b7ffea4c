"""Negative binomial counts."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.counts import NegativeBinomial
from flax_vae.models.likelihoods import Mean, likelihood


@likelihood("negative_binomial", NegativeBinomial)
@dataclass(frozen=True)
class NegativeBinomialLikelihood:
    """Counts whose variance is larger than their mean, each with its own mean and its own dispersion."""

    def start(self, mean: Mean) -> Mean:
        """Return the logarithms of means, then those of dispersions, which start at 1."""
        return tuple(math.log(max(m, 1e-3)) for m in mean) + (0.0,) * len(mean)

    def __call__(self, output: Float[Array, "... o"]) -> NegativeBinomial:
        """Map the logarithms of means and of dispersions to p(x | z)."""
        log_mean, log_dispersion = jnp.split(output, 2, axis=-1)
        return NegativeBinomial(log_mean, log_dispersion)
