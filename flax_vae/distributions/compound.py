"""Distributions made of others: mixtures, flows, and chains of layers."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from flax_vae.distributions.base import LatentDistribution
from flax_vae.distributions.normal import Normal
from flax_vae.pytrees import pytree

Draw = tuple[Array, Array, LatentDistribution]  # z, its log-density, and the distribution that it comes from
_FLOATS_AT_ONCE = 2**18  # of the pairs of draws and components in a mixture's density


@pytree
class Mixture:
    """A mixture Σ_m softmax(logits)_m p_m of distributions of vectors.

    Args:
        logits: of the components, "m".
        components: a distribution with batch shape "m" and event shape "d", such as `Normal`.
    """

    logits: Float[Array, " m"]
    components: LatentDistribution
    cheap_log_prob: ClassVar[bool] = False

    def log_prob(self, x: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape`."""

        def of_one(x: Float[Array, "... d"]) -> Float[Array, "..."]:
            return jax.nn.logsumexp(self.components.log_prob(x) + jax.nn.log_softmax(self.logits), axis=-1)

        # Worked out again for the gradient, a few at a time: on CPUs what stays in the caches is three times as fast.
        rows = x.reshape(-1, x.shape[-1])
        if not isinstance(rows.shape[0], int):  # exported for any number of them, which cannot be cut into batches
            return of_one(x[..., None, :])
        at_once = max(1, min(len(rows), _FLOATS_AT_ONCE // (len(self.logits) * x.shape[-1])))
        return jax.lax.map(jax.checkpoint(of_one), rows, batch_size=at_once).reshape(x.shape[:-1])

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d"]:
        """Draw from every component and choose one; no gradient reaches the logits."""
        which_key, key = jax.random.split(key)
        draws = self.components.sample(key, sample_shape)
        which = jax.random.categorical(which_key, self.logits, shape=sample_shape)
        return jnp.take_along_axis(draws, which[..., None, None], axis=-2)[..., 0, :]

    def sample_and_log_prob(
        self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        """A draw and its log-density."""
        x = self.sample(key, sample_shape)
        return x, self.log_prob(x)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One number that chooses the component, and the noise of that."""
        return (1 + self.components.noise_shape[0],)

    def from_noise(self, noise: Float[Array, "... n"]) -> Float[Array, "... d"]:
        """A draw from the first component m with Σ_{i <= m} softmax(logits)_i >= Φ(ε_1), by the rest of the noise."""
        ends = jnp.cumsum(jax.nn.softmax(self.logits))[:-1]
        which = (jax.scipy.special.ndtr(noise[..., :1]) > ends).sum(-1)
        draws = self.components.from_noise(noise[..., None, 1:])
        return jnp.take_along_axis(draws, which[..., None, None], axis=-2)[..., 0, :]

    def from_noise_and_log_prob(
        self, noise: Float[Array, "... n"]
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        """The draw that noise becomes, and its log-density."""
        x = self.from_noise(noise)
        return x, self.log_prob(x)

    def mean(self) -> Float[Array, " d"]:
        """Mean of the components' means, with their weights."""
        return jax.nn.softmax(self.logits) @ self.components.mean()

    def tempered(self, temperature: float | Float[Array, ""]) -> "Mixture":
        """The same mixture with every component tempered."""
        return replace(self, components=self.components.tempered(temperature))


@pytree
class Flow:
    """What z = f(ε) is distributed as, ε from a base distribution: log p(z) = log p(ε) + log |det ∂ε/∂z|.

    Args:
        base: distribution of ε.
        forward: f, ε "... d" -> z "... d" and log |det ∂z/∂ε| "...".
        inverse: z "... d" -> ε "... d" and log |det ∂ε/∂z| "...".
    """

    base: Normal
    forward: Callable[[Array], tuple[Array, Array]]
    inverse: Callable[[Array], tuple[Array, Array]]
    cheap_log_prob: ClassVar[bool] = False

    def log_prob(self, z: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape + batch_shape`."""
        noise, log_determinant = self.inverse(z)
        return self.base.log_prob(noise) + log_determinant

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d"]:
        """Draw ε and map it."""
        return self.sample_and_log_prob(key, sample_shape)[0]

    def sample_and_log_prob(
        self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        """A draw, and its log-density from ε: f is not inverted."""
        return self._forward(*self.base.sample_and_log_prob(key, sample_shape))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """That of the base."""
        return self.base.noise_shape

    def from_noise(self, noise: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """f of the base's draw."""
        return self.from_noise_and_log_prob(noise)[0]

    def from_noise_and_log_prob(
        self, noise: Float[Array, "... d"]
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        """The draw that noise becomes, and its log-density: f is not inverted."""
        return self._forward(*self.base.from_noise_and_log_prob(noise))

    def _forward(
        self, noise: Float[Array, "... d"], log_prob: Float[Array, "..."]
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        z, log_determinant = self.forward(noise)
        return z, log_prob - log_determinant

    def mean(self) -> Float[Array, "... d"]:
        """Where the base's mean goes, f(E ε): the mean itself, E f(ε), has no closed form."""
        return self.forward(self.base.mean())[0]

    def tempered(self, temperature: float | Float[Array, ""]) -> "Flow":
        """The same flow from a base whose standard deviation is multiplied by `temperature`."""
        return replace(self, base=self.base.tempered(temperature))


@pytree
class Chain:
    """Layers of latents, each given those above it: p(z) = Π_l p(z_l | z_<l), top first.

    They lie side by side in one vector z = [z_1 ... z_L], so that a chain goes wherever a flat distribution does.

    Args:
        top: p(z_1).
        below: functions z_<l "... a" -> p(z_l | z_<l), a `Normal`, one for each further layer.
        latent_dims: size of each layer.
        temperature: of the layers below the top.
    """

    top: LatentDistribution
    below: tuple[Callable[[Array], Normal], ...]
    latent_dims: tuple[int, ...] = struct.field(pytree_node=False)
    temperature: float | Array = 1.0
    cheap_log_prob: ClassVar[bool] = False

    def layers(self, z: Float[Array, "... d"]) -> list[tuple[Float[Array, "... l"], LatentDistribution]]:
        """Each z_l with the distribution that it comes from, p(z_l | z_<l)."""
        ends = np.cumsum(self.latent_dims)
        given_above = (
            self._given(conditional, z[..., :end]) for conditional, end in zip(self.below, ends, strict=False)
        )
        latents = jnp.split(z, ends[:-1].tolist(), axis=-1)
        return list(zip(latents, (self.top, *given_above), strict=True))

    def _given(self, conditional: Callable[[Array], Normal], above: Float[Array, "... a"]) -> Normal:
        return conditional(above).tempered(self.temperature)

    def log_prob(self, z: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape + batch_shape`."""
        return sum((p.log_prob(z_l) for z_l, p in self.layers(z)), start=jnp.zeros(()))

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d"]:
        """Draw layer after layer, by reparameterisation where all layers are reparameterised."""
        return jnp.concatenate([z for z, _, _ in self.draw_layers(key, sample_shape)], axis=-1)

    def sample_and_log_prob(
        self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        """A draw of all layers and its log-density."""
        latents, log_probs, _ = zip(*self.draw_layers(key, sample_shape), strict=True)
        return jnp.concatenate(latents, axis=-1), sum(log_probs, start=jnp.zeros(()))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """That of the top, and a number for each dimension below it."""
        return (self.top.noise_shape[0] + sum(self.latent_dims[1:]),)

    def from_noise(self, noise: Float[Array, "... n"]) -> Float[Array, "... d"]:
        """Layer after layer."""
        return self.from_noise_and_log_prob(noise)[0]

    def from_noise_and_log_prob(
        self, noise: Float[Array, "... n"]
    ) -> tuple[Float[Array, "... d"], Float[Array, "..."]]:
        """The draw of all layers that noise becomes, and its log-density."""
        begin = self.top.noise_shape[0]
        z, log_prob = self.top.from_noise_and_log_prob(noise[..., :begin])
        for conditional, size in zip(self.below, self.latent_dims[1:], strict=True):
            below, more = self._given(conditional, z).from_noise_and_log_prob(noise[..., begin : begin + size])
            z, log_prob, begin = jnp.concatenate([z, below], axis=-1), log_prob + more, begin + size
        return z, log_prob

    def draw_layers(self, key: Key[Array, ""], sample_shape: tuple[int, ...]) -> "list[Draw]":
        """A draw of each layer given those above it: see the function of this name."""
        key, top_key = jax.random.split(key)
        z, log_prob = self.top.sample_and_log_prob(top_key, sample_shape)
        drawn: list[Draw] = [(z, log_prob, self.top)]
        for i, conditional in enumerate(self.below):
            given = self._given(conditional, z)
            below, log_prob = given.sample_and_log_prob(jax.random.fold_in(key, i))
            drawn.append((below, log_prob, given))
            z = jnp.concatenate([z, below], axis=-1)
        return drawn

    def mean(self) -> Float[Array, "... d"]:
        """The mean of each layer given the means of those above: for those below the top no closed form is known."""
        z = self.top.mean()
        for conditional in self.below:
            z = jnp.concatenate([z, conditional(z).mean()], axis=-1)
        return z

    def tempered(self, temperature: float | Float[Array, ""]) -> "Chain":
        """The same chain with every layer tempered."""
        return replace(self, top=self.top.tempered(temperature), temperature=self.temperature * temperature)


def layers(distribution: LatentDistribution, z: Float[Array, "... d"]) -> list[tuple[Array, LatentDistribution]]:
    """Latents layer by layer, each with the distribution that it comes from: one layer but for a `Chain`."""
    return distribution.layers(z) if isinstance(distribution, Chain) else [(z, distribution)]


def layers_at(distribution: LatentDistribution, z: Float[Array, "... d"]) -> list[Draw]:
    """What `draw_layers` gives, of latents that were drawn before."""
    return [(z_l, each.log_prob(z_l), each) for z_l, each in layers(distribution, z)]


def draw_layers(distribution: LatentDistribution, key: Key[Array, ""], sample_shape: tuple[int, ...]) -> list[Draw]:
    """A draw layer by layer: z_l, log q(z_l | z_<l) and that distribution; one layer but for a `Chain`."""
    if isinstance(distribution, Chain):
        return distribution.draw_layers(key, sample_shape)
    return [(*distribution.sample_and_log_prob(key, sample_shape), distribution)]
