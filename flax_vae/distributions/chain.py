"""Chains of stochastic layers."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from flax_vae.distributions.base import Draw, DrawAndLogProb, FromNoise
from flax_vae.distributions.normal import Normal
from flax_vae.pytrees import pytree


@pytree
class Chain(FromNoise):
    """Layers of latents, each given the layers above it: p(z) = Π_l p(z_l | z_<l), top first.

    The layers are concatenated into one vector z = [z_1 ... z_L], so that a chain can be used wherever a flat
    distribution can.

    Args:
        top: p(z_1).
        below: functions z_<l "... a" -> p(z_l | z_<l), a `Normal`, one for each further layer.
        latent_dims: size of each layer.
        temperature: factor of the scale of the layers below the top.
    """

    top: FromNoise
    below: tuple[Callable[[Array], Normal], ...]
    latent_dims: tuple[int, ...] = struct.field(pytree_node=False)
    temperature: float | Array = 1.0

    def layers(self, z: Float[Array, "... d"]) -> list[tuple[Array, FromNoise]]:
        """Pair each z_l with its conditional distribution p(z_l | z_<l)."""
        ends = np.cumsum(self.latent_dims)
        below = (self._given(conditional, z[..., :end]) for conditional, end in zip(self.below, ends, strict=False))
        return list(zip(jnp.split(z, ends[:-1].tolist(), axis=-1), (self.top, *below), strict=True))

    def _given(self, conditional: Callable[[Array], Normal], above: Float[Array, "... a"]) -> Normal:
        return conditional(above).tempered(self.temperature)

    def log_prob(self, z: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Return the log-density in nats: `sample_shape + batch_shape`."""
        return sum((p.log_prob(z_l) for z_l, p in self.layers(z)), start=jnp.zeros(()))

    def draw_layers(self, key: Key[Array, ""], sample_shape: tuple[int, ...]) -> list[Draw]:
        """Draw each layer given the layers above it."""
        key, top_key = jax.random.split(key)
        z, log_prob = self.top.sample_and_log_prob(top_key, sample_shape)
        draws: list[Draw] = [(z, log_prob, self.top)]
        for i, conditional in enumerate(self.below):
            p = self._given(conditional, z)
            z_l, log_prob = p.sample_and_log_prob(jax.random.fold_in(key, i))
            draws.append((z_l, log_prob, p))
            z = jnp.concatenate([z, z_l], axis=-1)
        return draws

    def sample_and_log_prob(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> DrawAndLogProb:
        """Draw all layers, with the joint log-density."""
        latents, log_probs, _ = zip(*self.draw_layers(key, sample_shape), strict=True)
        return jnp.concatenate(latents, axis=-1), sum(log_probs, start=jnp.zeros(()))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The top's noise, and one number for each dimension below it."""
        return (self.top.noise_shape[0] + sum(self.latent_dims[1:]),)

    def from_noise_and_log_prob(self, noise: Float[Array, "... n"]) -> DrawAndLogProb:
        """Map noise to a draw of all layers, with the joint log-density."""
        begin = self.top.noise_shape[0]
        z, log_prob = self.top.from_noise_and_log_prob(noise[..., :begin])
        for conditional, size in zip(self.below, self.latent_dims[1:], strict=True):
            z_l, log_prob_l = self._given(conditional, z).from_noise_and_log_prob(noise[..., begin : begin + size])
            z, log_prob, begin = jnp.concatenate([z, z_l], axis=-1), log_prob + log_prob_l, begin + size
        return z, log_prob

    def to_noise(self, z: Float[Array, "... d"]) -> Float[Array, "... n"]:
        """Invert each layer given the layers above it; the top must be invertible."""
        return jnp.concatenate([p.to_noise(z_l) for z_l, p in self.layers(z)], axis=-1)

    def mean(self) -> Float[Array, "... d"]:
        """Return the mean of each layer given the means above; below the top the true mean has no closed form."""
        z = self.top.mean()
        for conditional in self.below:
            z = jnp.concatenate([z, conditional(z).mean()], axis=-1)
        return z

    def tempered(self, temperature: float | Float[Array, ""]) -> "Chain":
        """Temper every layer."""
        return replace(self, top=self.top.tempered(temperature), temperature=self.temperature * temperature)
