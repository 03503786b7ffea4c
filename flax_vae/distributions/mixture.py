"""Mixtures of distributions over vectors."""

from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flax_vae.distributions.base import DrawAndLogProb, FromNoise
from flax_vae.pytrees import pytree

_MAX_FLOATS = 2**18  # processed at a time when the density pairs draws with components


@pytree
class Mixture(FromNoise):
    """A mixture Σ_m softmax(logits)_m p_m of distributions over vectors.

    Args:
        logits: log-weights of the components, up to a constant, "m".
        components: a distribution with batch shape "m" and event shape "d", such as `Normal`.
    """

    logits: Float[Array, " m"]
    components: FromNoise
    noise_meaning: ClassVar[str] = f"{FromNoise.noise_meaning}, except the first number, which selects a component"

    def log_prob(self, z: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Return the log-density in nats: `sample_shape`."""

        def log_prob_of_row(z: Float[Array, "... d"]) -> Float[Array, "..."]:
            return jax.nn.logsumexp(self.components.log_prob(z) + jax.nn.log_softmax(self.logits), axis=-1)

        # Recomputed for the gradient, a few rows at a time: staying in cache is three times as fast on CPUs.
        rows = z.reshape(-1, z.shape[-1])
        if not isinstance(rows.shape[0], int):  # exported with a symbolic batch size, which cannot be split
            return log_prob_of_row(z[..., None, :])
        batch_size = max(1, min(len(rows), _MAX_FLOATS // (len(self.logits) * z.shape[-1])))
        return jax.lax.map(jax.checkpoint(log_prob_of_row), rows, batch_size=batch_size).reshape(z.shape[:-1])

    def sample_and_log_prob(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> DrawAndLogProb:
        """Draw from every component and choose one; no gradient reaches the logits through the draw."""
        which_key, key = jax.random.split(key)
        draws = self.components.sample(key, sample_shape)
        z = _choose(draws, jax.random.categorical(which_key, self.logits, shape=sample_shape))
        return z, self.log_prob(z)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One number to choose the component, and the component's noise."""
        return (1 + self.components.noise_shape[0],)

    def from_noise_and_log_prob(self, noise: Float[Array, "... n"]) -> DrawAndLogProb:
        """Choose the first component m with Σ_{i <= m} softmax(logits)_i >= Φ(ε_1), and draw from it with the rest."""
        ends = jnp.cumsum(jax.nn.softmax(self.logits))[:-1]
        which = (jax.scipy.special.ndtr(noise[..., :1]) > ends).sum(-1)
        z = _choose(self.components.from_noise(noise[..., None, 1:]), which)
        return z, self.log_prob(z)

    def mean(self) -> Float[Array, " d"]:
        """Return the weighted mean of the components' means."""
        return jax.nn.softmax(self.logits) @ self.components.mean()

    def tempered(self, temperature: float | Float[Array, ""]) -> "Mixture":
        """Temper every component."""
        return replace(self, components=self.components.tempered(temperature))


def _choose(draws: Float[Array, "... m d"], which: Array) -> Float[Array, "... d"]:
    """Take the draw of one component."""
    return jnp.take_along_axis(draws, which[..., None, None], axis=-2)[..., 0, :]
