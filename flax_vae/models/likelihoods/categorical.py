"""Categorical pixels."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from flax_vae.distributions.levels import LEVELS, Categorical
from flax_vae.models.likelihoods import Mean, likelihood


@likelihood("categorical", Categorical)
@dataclass(frozen=True)
class CategoricalLikelihood:
    """A separate probability for each of the 256 levels of every pixel."""

    def start(self, mean: Mean) -> Mean:
        """Return equal logits."""
        return (0.0,) * LEVELS * len(mean)

    def __call__(self, output: Float[Array, "... o"]) -> Categorical:
        """Map logits to p(x | z)."""
        return Categorical(output.reshape(*output.shape[:-1], -1, LEVELS))
