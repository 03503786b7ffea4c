"""Poisson counts."""

import math
from dataclasses import dataclass

from jaxtyping import Array, Float

from flax_vae.distributions.counts import Poisson
from flax_vae.models.likelihoods import Mean, likelihood


@likelihood("poisson", Poisson)
@dataclass(frozen=True)
class PoissonLikelihood:
    """Counts, each with its own rate."""

    def start(self, mean: Mean) -> Mean:
        """Return the logarithm of each rate."""
        return tuple(math.log(max(m, 1e-3)) for m in mean)

    def __call__(self, output: Float[Array, "... v"]) -> Poisson:
        """Map the logarithms of rates to p(x | z)."""
        return Poisson(output)
