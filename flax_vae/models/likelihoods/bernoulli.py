"""Bernoulli and continuous Bernoulli pixels."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from flax_vae.distributions.pixels import Bernoulli, ContinuousBernoulli
from flax_vae.models.likelihoods import Mean, likelihood, logits


@likelihood("bernoulli", Bernoulli)
@dataclass(frozen=True)
class BernoulliLikelihood:
    """Binary pixels; for grey values the log-probability is minus the cross-entropy, which is not a density."""

    def start(self, mean: Mean) -> Mean:
        """Return a logit for each channel."""
        return logits(mean)

    def __call__(self, output: Float[Array, "... c"]) -> Bernoulli:
        """Map logits to p(x | z)."""
        return Bernoulli(output)


@likelihood("continuous_bernoulli", ContinuousBernoulli)
@dataclass(frozen=True)
class ContinuousBernoulliLikelihood:
    """The Bernoulli's cross-entropy, normalised to a density on [0, 1] (Loaiza-Ganem & Cunningham 2019)."""

    def start(self, mean: Mean) -> Mean:
        """Return a logit for each channel."""
        return logits(mean)

    def __call__(self, output: Float[Array, "... c"]) -> ContinuousBernoulli:
        """Map logits to p(x | z)."""
        return ContinuousBernoulli(output)
