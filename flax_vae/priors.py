"""Linen modules that give p(z)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flax_vae.distributions import MAX_LOG_SCALE, Normal, NormalMixture


class StandardNormal(nn.Module):
    """Prior p(z) = N(0, I)."""

    latent_dim: int

    def __call__(self) -> Normal:
        """Normal with event shape "d"."""
        zeros = jnp.zeros(self.latent_dim)
        return Normal(zeros, zeros)


class LearnedMixture(nn.Module):
    """Prior p(z) = Σ_m softmax(logits)_m N(z; loc_m, exp(log_scale_m)²), all of it learned with the model.

    Starts with equal weights, scales of 1 and locations drawn from N(0, I): close to N(0, 2I), with every component its
    own.
    """

    latent_dim: int
    components: int = 50

    @nn.compact
    def __call__(self) -> NormalMixture:
        """Mixture with event shape "d"."""
        shape = (self.components, self.latent_dim)
        logits = self.param("logits", nn.initializers.zeros, (self.components,))
        loc = self.param("loc", nn.initializers.normal(1.0), shape)
        log_scale = self.param("log_scale", nn.initializers.zeros, shape)
        return NormalMixture(logits, loc, jnp.clip(log_scale, -MAX_LOG_SCALE, MAX_LOG_SCALE))


@dataclass(frozen=True)
class Flow:
    """What z = f(ε) is distributed as, ε from a base distribution: log p(z) = log p(ε) + log |det ∂ε/∂z|.

    Attributes:
        base: distribution of ε.
        forward: ε "... d" -> z "... d".
        inverse: z "... d" -> ε "... d" and log |det ∂ε/∂z| "...".
    """

    base: Normal
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], tuple[Array, Array]]

    def log_prob(self, z: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Log-density in nats."""
        noise, log_determinant = self.inverse(z)
        return self.base.log_prob(noise) + log_determinant

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d"]:
        """Draw ε and map it."""
        return self.forward(self.base.sample(key, sample_shape))

    def tempered(self, temperature: float | Float[Array, ""]) -> "Flow":
        """The same flow from a base whose standard deviation is multiplied by `temperature`."""
        return replace(self, base=self.base.tempered(temperature))


class CouplingFlow(nn.Module):
    """Prior of affine couplings (Dinh et al. 2017): layer after layer, every second dimension is scaled and shifted.

        z_A = ε_A,  z_B = ε_B · exp(s(ε_A)) + t(ε_A)

    with s and t from a dense network of A and A, B changing places between layers. Starts as N(0, I).
    """

    latent_dim: int
    layers: int = 4
    hidden: int = 64

    def setup(self) -> None:
        """One network for each layer."""
        zeros = nn.initializers.zeros
        self.networks = [
            nn.Sequential([nn.Dense(self.hidden), nn.silu, nn.Dense(self.hidden), nn.silu,
                           nn.Dense(2 * self.latent_dim, kernel_init=zeros)])
            for _ in range(self.layers)
        ]  # fmt: skip

    def __call__(self) -> Flow:
        """Flow with event shape "d"."""
        zeros = jnp.zeros(self.latent_dim)
        self._to_noise(zeros)  # creates the parameters
        return Flow(Normal(zeros, zeros), self._to_latents, self._to_noise)

    def _coupling(self, layer: int, x: Float[Array, "... d"]) -> tuple[Float[Array, "... d"], Float[Array, "... d"]]:
        """Log-scale, bounded, and shift: 0 for the dimensions that stay."""
        moves = (jnp.arange(self.latent_dim) + layer) % 2
        log_scale, shift = jnp.split(self.networks[layer](x * (1 - moves)), 2, axis=-1)
        return 2 * jnp.tanh(log_scale / 2) * moves, shift * moves

    def _to_latents(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        for layer in range(self.layers):
            log_scale, shift = self._coupling(layer, x)
            x = x * jnp.exp(log_scale) + shift
        return x

    def _to_noise(self, x: Float[Array, "... d"]) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        log_determinant = jnp.zeros(x.shape[:-1])
        for layer in reversed(range(self.layers)):
            log_scale, shift = self._coupling(layer, x)
            x = (x - shift) * jnp.exp(-log_scale)
            log_determinant -= log_scale.sum(-1)
        return x, log_determinant
