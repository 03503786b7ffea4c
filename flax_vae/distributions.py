"""Densities as values: small pytrees with `log_prob`, `sample` and `mean`.

Shapes follow `sample_shape + batch_shape + event_shape`. `event_ndim` says how many trailing axes make one event;
`log_prob` sums over them, in nats.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

# exp(±15) squared is far inside float32: with log-scales within it no output of a network makes latents infinite.
MAX_LOG_SCALE = 15.0
_LOG_2PI = math.log(2 * math.pi)


def sum_event(x: Float[Array, "..."], event_ndim: int) -> Float[Array, "..."]:
    """Sum over the last `event_ndim` axes."""
    return x.sum(tuple(range(-event_ndim, 0)))


def _flatten_event(x: Float[Array, "..."], event_ndim: int) -> Float[Array, "... e"]:
    return x.reshape(*x.shape[: x.ndim - event_ndim], -1)


@jax.custom_jvp
def _softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 + e^x), to the last digit of `jax.nn.softplus` and three times as fast: that one minds infinite x."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


_softplus.defjvps(lambda tangent, _, x: jax.nn.sigmoid(x) * tangent)


@struct.dataclass
class Normal:
    """Independent normals, log N(x; loc, exp(log_scale)²), summed over the event axes.

    Args:
        loc, log_scale: arrays of one shape, `batch_shape + event_shape`.
        event_ndim: number of trailing axes that make one event.
    """

    loc: Float[Array, "..."]
    log_scale: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=1)
    discrete: ClassVar[bool] = False

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape + batch_shape`."""
        standardised = (x - self.loc) * jnp.exp(-self.log_scale)
        return sum_event(-0.5 * (standardised**2 + _LOG_2PI) - self.log_scale, self.event_ndim)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Reparameterised draw, loc + exp(log_scale)·ε with ε ~ N(0, I) (Kingma & Welling 2014, section 2.4)."""
        noise = jax.random.normal(key, sample_shape + self.loc.shape, self.loc.dtype)
        return self.loc + jnp.exp(self.log_scale) * noise

    def mean(self) -> Float[Array, "..."]:
        """The location: `batch_shape + event_shape`."""
        return self.loc

    def tempered(self, temperature: float | Float[Array, ""]) -> "Normal":
        """The same normal with its standard deviation times `temperature`."""
        return replace(self, log_scale=self.log_scale + jnp.log(temperature))


def _solve_lower(lower: Float[Array, "*b d d"], x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """L⁻¹x by forward substitution.

    Not by `jax.lax.linalg.triangular_solve`: on CPUs two of those can wait for each other for ever, since each holds a
    thread of the pool that the other needs (jaxlib 0.10.2).
    """

    def row(found: Array, i: Array) -> tuple[Array, None]:
        value = (x[..., i] - (lower[..., i, :] * found).sum(-1)) / lower[..., i, i]
        return jnp.where(jnp.arange(x.shape[-1]) == i, value[..., None], found), None

    return jax.lax.scan(row, jnp.zeros_like(x), jnp.arange(x.shape[-1]))[0]


@struct.dataclass
class MultivariateNormal:
    """A normal with a full covariance L Lᵀ over the last axis.

    Args:
        loc: "*b d".
        scale_tril: L, lower triangular with a positive diagonal, "*b d d".
    """

    loc: Float[Array, "*b d"]
    scale_tril: Float[Array, "*b d d"]

    def log_prob(self, x: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape + batch_shape`."""
        standardised = _solve_lower(self.scale_tril, x - self.loc)
        return -0.5 * ((standardised**2).sum(-1) + x.shape[-1] * _LOG_2PI) - self.log_determinant()

    def log_determinant(self) -> Float[Array, "*b"]:
        """log det L, half that of the covariance."""
        return jnp.log(jnp.diagonal(self.scale_tril, axis1=-2, axis2=-1)).sum(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d"]:
        """Reparameterised draw, loc + L ε with ε ~ N(0, I)."""
        noise = jax.random.normal(key, sample_shape + self.loc.shape, self.loc.dtype)
        return self.loc + jnp.einsum("...ij,...j->...i", self.scale_tril, noise)

    def mean(self) -> Float[Array, "*b d"]:
        """The location."""
        return self.loc

    def tempered(self, temperature: float | Float[Array, ""]) -> "MultivariateNormal":
        """The same normal with L times `temperature`."""
        return replace(self, scale_tril=self.scale_tril * temperature)


@struct.dataclass
class Mixture:
    """A mixture Σ_m softmax(logits)_m p_m of distributions of vectors.

    Args:
        logits: of the components, "m".
        components: a distribution with batch shape "m" and event shape "d", such as `Normal`.
    """

    logits: Float[Array, " m"]
    components: Any

    def log_prob(self, x: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape`."""
        of_components = self.components.log_prob(x[..., None, :])
        return jax.nn.logsumexp(of_components + jax.nn.log_softmax(self.logits), axis=-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d"]:
        """Draw from every component and choose one; no gradient reaches the logits."""
        which_key, key = jax.random.split(key)
        draws = self.components.sample(key, sample_shape)
        which = jax.random.categorical(which_key, self.logits, shape=sample_shape)
        return jnp.take_along_axis(draws, which[..., None, None], axis=-2)[..., 0, :]

    def mean(self) -> Float[Array, " d"]:
        """Mean of the components' means, with their weights."""
        return jax.nn.softmax(self.logits) @ self.components.mean()

    def tempered(self, temperature: float | Float[Array, ""]) -> "Mixture":
        """The same mixture with every component tempered."""
        return replace(self, components=self.components.tempered(temperature))


@struct.dataclass
class Flow:
    """What z = f(ε) is distributed as, ε from a base distribution: log p(z) = log p(ε) + log |det ∂ε/∂z|.

    Args:
        base: distribution of ε.
        forward: f, ε "... d" -> z "... d".
        inverse: z "... d" -> ε "... d" and log |det ∂ε/∂z| "...".
    """

    base: Normal
    forward: Callable[[Array], Array]
    inverse: Callable[[Array], tuple[Array, Array]]

    def log_prob(self, z: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape + batch_shape`."""
        noise, log_determinant = self.inverse(z)
        return self.base.log_prob(noise) + log_determinant

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d"]:
        """Draw ε and map it."""
        return self.forward(self.base.sample(key, sample_shape))

    def mean(self) -> Float[Array, "... d"]:
        """Where the base's mean goes, f(E ε): the mean itself, E f(ε), has no closed form."""
        return self.forward(self.base.mean())

    def tempered(self, temperature: float | Float[Array, ""]) -> "Flow":
        """The same flow from a base whose standard deviation is multiplied by `temperature`."""
        return replace(self, base=self.base.tempered(temperature))


@struct.dataclass
class Chain:
    """Layers of latents, each given those above it: p(z) = Π_l p(z_l | z_<l), top first.

    They lie side by side in one vector z = [z_1 ... z_L], so that a chain goes wherever a flat distribution does.

    Args:
        top: p(z_1).
        below: functions z_<l "... a" -> p(z_l | z_<l), a `Normal`, one for each further layer.
        latent_dims: size of each layer.
        temperature: of the layers below the top.
    """

    top: Any
    below: tuple[Callable[[Array], Normal], ...]
    latent_dims: tuple[int, ...] = struct.field(pytree_node=False)
    temperature: float | Array = 1.0

    def layers(self, z: Float[Array, "... d"]) -> list[tuple[Float[Array, "... l"], Any]]:
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
        key, top_key = jax.random.split(key)
        z = self.top.sample(top_key, sample_shape)
        for i, conditional in enumerate(self.below):
            drawn = self._given(conditional, z).sample(jax.random.fold_in(key, i))
            z = jnp.concatenate([z, drawn], axis=-1)
        return z

    def mean(self) -> Float[Array, "... d"]:
        """The mean of each layer given the means of those above: for those below the top no closed form is known."""
        z = self.top.mean()
        for conditional in self.below:
            z = jnp.concatenate([z, conditional(z).mean()], axis=-1)
        return z

    def tempered(self, temperature: float | Float[Array, ""]) -> "Chain":
        """The same chain with every layer tempered."""
        return replace(self, top=self.top.tempered(temperature), temperature=self.temperature * temperature)


def layers(distribution: Any, z: Float[Array, "... d"]) -> list[tuple[Array, Any]]:
    """Latents layer by layer, each with the distribution that it comes from: one layer but for a `Chain`."""
    return distribution.layers(z) if isinstance(distribution, Chain) else [(z, distribution)]


@struct.dataclass
class Bernoulli:
    """Independent Bernoullis given by logits, x·logit - log(1 + e^logit), summed over the event axes.

    For grey values x in [0, 1] the same expression is minus the binary cross-entropy: a loss that trains well, but no
    density of x, since it does not integrate to one.

    Args:
        logits: log-odds of a one, `batch_shape + event_shape`.
        event_ndim: number of trailing axes that make one event; three for images "h w c".
    """

    logits: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    discrete: ClassVar[bool] = True

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-probability in nats: `sample_shape + batch_shape`."""
        # XLA's CPU code for a sum over several axes is scalar, ten times slower than over one. Without the barriers it
        # would undo the flattening.
        x, logits = jax.lax.optimization_barrier([_flatten_event(each, self.event_ndim) for each in (x, self.logits)])
        return (x * logits - _softplus(logits)).sum(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw zeros and ones."""
        draw = jax.random.bernoulli(key, self.mean(), sample_shape + self.logits.shape)
        return draw.astype(self.logits.dtype)

    def mean(self) -> Float[Array, "..."]:
        """Probability of a one: `batch_shape + event_shape`."""
        return jax.nn.sigmoid(self.logits)


def kl_divergence(q: "Normal | MultivariateNormal", p: Normal) -> Float[Array, "..."]:
    """KL(q || p) in nats, closed form, for a normal p of independent dimensions, p = N(m, τ²).

    With q = N(μ, Σ) and the variances σ² on the diagonal of Σ:

        ½ Σ_d [σ²/τ² + (μ-m)²/τ² - 1 - log σ²/τ²]  +  ½ [Σ_d log σ² - log det Σ]

    where the second part is the KL that the correlations add; it is 0 for independent dimensions.

    Raises:
        TypeError: another distribution, for which this is no KL.
    """
    if not (isinstance(q, Normal | MultivariateNormal) and isinstance(p, Normal)):
        raise TypeError(f"no closed form of the KL of {type(q).__name__} from {type(p).__name__}")
    correlations: float | Array = 0.0
    if isinstance(q, MultivariateNormal):
        log_scale = 0.5 * jnp.log((q.scale_tril**2).sum(-1))
        correlations = log_scale.sum(-1) - q.log_determinant()
        q = Normal(q.loc, log_scale)
    log_ratio = q.log_scale - p.log_scale
    distance = (q.loc - p.loc) * jnp.exp(-p.log_scale)
    # expm1 keeps the digits that 1 - σ²/τ² would cancel where the posterior is close to the prior.
    return sum_event(0.5 * (jnp.expm1(2 * log_ratio) + distance**2) - log_ratio, q.event_ndim) + correlations
