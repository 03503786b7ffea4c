"""Densities as values: small pytrees with `log_prob`, `sample` and `mean`.

Shapes follow `sample_shape + batch_shape + event_shape`. `event_ndim` says how many trailing axes make one event;
`log_prob` sums over them, in nats.
"""

import math
from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp
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
        difference = x - self.loc
        scale_tril = jnp.broadcast_to(self.scale_tril, (*difference.shape, difference.shape[-1]))
        standardised = jax.lax.linalg.triangular_solve(scale_tril, difference[..., None], left_side=True, lower=True)
        return -0.5 * ((standardised[..., 0] ** 2).sum(-1) + x.shape[-1] * _LOG_2PI) - self.log_determinant()

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


@struct.dataclass
class NormalMixture:
    """A mixture of m independent normals over the last axis, one for all of an event.

    Args:
        logits: of the components, "m".
        loc, log_scale: "m d".
    """

    logits: Float[Array, " m"]
    loc: Float[Array, "m d"]
    log_scale: Float[Array, "m d"]

    def log_prob(self, x: Float[Array, "... d"]) -> Float[Array, "..."]:
        """Log-density in nats: `sample_shape`."""
        of_components = Normal(self.loc, self.log_scale).log_prob(x[..., None, :])
        return jax.nn.logsumexp(of_components + jax.nn.log_softmax(self.logits), axis=-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... d"]:
        """Draw a component, then from it; no gradient reaches the logits."""
        which_key, key = jax.random.split(key)
        which = jax.random.categorical(which_key, self.logits, shape=sample_shape)
        return Normal(self.loc[which], self.log_scale[which]).sample(key)

    def mean(self) -> Float[Array, " d"]:
        """Mean of the components' means, with their weights."""
        return jax.nn.softmax(self.logits) @ self.loc

    def tempered(self, temperature: float | Float[Array, ""]) -> "NormalMixture":
        """The same mixture with the standard deviation of every component times `temperature`."""
        return replace(self, log_scale=self.log_scale + jnp.log(temperature))


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
