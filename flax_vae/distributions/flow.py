"""Normalising flows."""

from collections.abc import Callable
from dataclasses import replace

from jaxtyping import Array, Float

from flax_vae.distributions.base import DrawAndLogProb, FromNoise
from flax_vae.distributions.normal import Normal
from flax_vae.pytrees import pytree


@pytree
class Flow(FromNoise):
    """The distribution of z = f(ε), with ε from a base distribution: log p(z) = log p(ε) + log |det ∂ε/∂z|.

    Args:
        base: distribution of ε.
        forward: f, maps ε "... d" to z "... d" and log |det ∂z/∂ε| "...".
        inverse: maps z "... d" to ε "... d" and log |det ∂ε/∂z| "...".
    """

    base: Normal
    forward: Callable[[Array], tuple[Array, Array]]
    inverse: Callable[[Array], tuple[Array, Array]]

    def log_prob(self, z: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Return the log-density in nats: `sample_shape + batch_shape`."""
        noise, log_determinant = self.inverse(z)
        return self.base.log_prob(noise) + log_determinant

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The noise shape of the base."""
        return self.base.noise_shape

    def from_noise_and_log_prob(self, noise: Float[Array, "... d"]) -> DrawAndLogProb:
        """Map noise to a draw, with its log-density; f is not inverted."""
        epsilon, log_prob = self.base.from_noise_and_log_prob(noise)
        z, log_determinant = self.forward(epsilon)
        return z, log_prob - log_determinant

    def to_noise(self, z: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Invert f, then the base."""
        return self.base.to_noise(self.inverse(z)[0])

    def mean(self) -> Float[Array, "... d"]:
        """Return f(E ε), the image of the base's mean; the true mean E f(ε) has no closed form."""
        return self.forward(self.base.mean())[0]

    def tempered(self, temperature: float | Float[Array, ""]) -> "Flow":
        """Multiply the standard deviation of the base by `temperature`."""
        return replace(self, base=self.base.tempered(temperature))
