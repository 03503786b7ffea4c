"""Distributions over pixels with one of the 256 levels k / 255 of a uint8 pixel: p(x | z).

Besides `log_prob` they have `upper_share(low, middle, high)` = P(level >= middle | low <= level < high), with which an
entropy coder finds a level by bisection, in eight steps. It is per pixel, jointly over channels, because a channel may
depend on the previous ones. For channels that are already decoded, low = middle = level and high = level + 1.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key

from flax_vae.distributions.base import Factorised, Levels, sum_event
from flax_vae.pytrees import pytree

Values = Float[Array, "..."]
LEVELS = 256
_TOP = LEVELS - 1
_HALF_STEP = 0.5 / _TOP
# The lower edge of each level, and the upper edge of the last: level / 255 - 0.5 / 255, rounded to float32 once, as a
# fused multiply-add would. Computed at run time, the edges would depend on whether the processor has that instruction,
# and a file compressed on one machine could not be restored on another.
_EDGES = np.float32(
    np.arange(LEVELS + 1) * np.float64(np.float32(1) / np.float32(_TOP)) - np.float64(np.float32(_HALF_STEP))
)
_LOG_CHOOSE = np.log([float(math.comb(_TOP, k)) for k in range(LEVELS)])
MAX_PIXEL_LOG_SCALE = 7.0  # bounds a pixel's log-scale: from e^-7 = 1/1000, a quarter of a level, to far beyond [0, 1]


def _level(x: Values) -> Int[Array, "..."]:
    return jnp.round(x * _TOP).astype(jnp.int32)


def _log_prob_of_level(x: Values, loc: Values, log_scale: Values) -> Values:
    """Return the log-probability that a logistic variable rounds to the level x; the outer levels take the tails.

    Computes the exact difference of two sigmoids, with a < b: σ(b) - σ(a) = σ(b) σ(-a) (1 - e^(a - b)).
    """
    log_scale = jnp.clip(log_scale, -MAX_PIXEL_LOG_SCALE, MAX_PIXEL_LOG_SCALE)
    inverse, level = jnp.exp(-log_scale), _level(x)
    centred = level / _TOP - loc
    below_upper = jax.nn.log_sigmoid((centred + _HALF_STEP) * inverse)
    above_lower = jax.nn.log_sigmoid(-(centred - _HALF_STEP) * inverse)
    inside = jnp.log(-jnp.expm1(-2 * _HALF_STEP * inverse))
    between = below_upper + above_lower + inside
    return jnp.where(level == 0, below_upper, jnp.where(level == _TOP, above_lower, between))


def _prob_between(
    low: Int[Array, "..."], high: Int[Array, "..."], loc: Values, log_scale: Values
) -> tuple[Values, Values]:
    """Return P(low <= level < high) of a logistic variable, as a pair (f, e) that stands for f eᵉ.

    eᵉ underflows far from the location. With the standardised ends a and b of the interval,
    σ(b) - σ(a) = σ(b) σ(-a) (1 - e^(a - b)), where σ(b) = e^min(b, 0) / (1 + e^-|b|).
    """
    inverse = jnp.exp(-jnp.clip(log_scale, -MAX_PIXEL_LOG_SCALE, MAX_PIXEL_LOG_SCALE))
    edges = jnp.asarray(_EDGES)
    a = jnp.where(low > 0, (edges[low] - loc) * inverse, -jnp.inf)
    b = jnp.where(high < LEVELS, (edges[high] - loc) * inverse, jnp.inf)
    factor = -jnp.expm1(a - b) / ((1 + jnp.exp(-jnp.abs(a))) * (1 + jnp.exp(-jnp.abs(b))))
    return factor, jnp.minimum(b, 0) - jnp.maximum(a, 0)


def _draw_level(key: Array, loc: Values, log_scale: Values) -> Values:
    scale = jnp.exp(jnp.clip(log_scale, -MAX_PIXEL_LOG_SCALE, MAX_PIXEL_LOG_SCALE))
    x = loc + scale * jax.random.logistic(key, loc.shape, loc.dtype)
    return _level(jnp.clip(x, 0.0, 1.0)).astype(loc.dtype) / _TOP


@pytree
class DiscretizedLogistic(Factorised):
    """Independent logistic variables rounded to the 256 levels (Kingma et al. 2016); the outer levels take the tails.

    Args:
        loc, log_scale: parameters before rounding, `batch_shape + event_shape`; levels are in [0, 1].
        event_ndim: number of trailing axes that make one event.
    """

    loc: Float[Array, "..."]
    log_scale: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[int] = LEVELS

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-probability in nats of the levels nearest to x: `sample_shape + batch_shape`."""
        return sum_event(_log_prob_of_level(x, self.loc, self.log_scale), self.event_ndim)

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """Return P(middle <= 255·x | low <= 255·x < high) of each pixel, jointly over its channels."""
        total, e_total = _prob_between(low, high, self.loc, self.log_scale)
        upper, e_upper = _prob_between(middle, high, self.loc, self.log_scale)
        return (upper / total * jnp.exp(e_upper - e_total)).prod(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw levels."""
        return _draw_level(key, jnp.broadcast_to(self.loc, sample_shape + self.loc.shape), self.log_scale)

    def mean(self) -> Float[Array, "..."]:
        """Return the location, clipped to [0, 1]: the median, and the mean except for rounding and tails."""
        return jnp.clip(self.loc, 0.0, 1.0)


@pytree
class MixtureOfLogistics:
    """Mixtures of discretised logistics, with one component per pixel for all its channels (Salimans et al. 2017).

    Within a component a channel's location depends linearly on the previous channels:
    loc_c + Σ_{d < c} coefficient_cd · x_d.

    Args:
        logits: log-weights of the components, up to a constant, `batch_shape + "h w m"`.
        loc, log_scale: `batch_shape + "h w c m"`.
        coefficients: `batch_shape + "h w c c m"`; only those with d < c are used.
    """

    logits: Float[Array, "*b h w m"]
    loc: Float[Array, "*b h w c m"]
    log_scale: Float[Array, "*b h w c m"]
    coefficients: Float[Array, "*b h w c c m"]
    pixel_levels: ClassVar[int] = LEVELS

    def _locations(self, x: Float[Array, "... h w c"]) -> Float[Array, "... h w c m"]:
        # Channel by channel: jaxlib 0.10.2 crashes on CPUs when it sums the single product "k b h w c c m".
        def location(c: int) -> Float[Array, "... h w m"]:
            terms = (self.coefficients[..., c, d, :] * x[..., d, None] for d in range(c))
            return sum(terms, start=self.loc[..., c, :])

        return jnp.stack(jnp.broadcast_arrays(*map(location, range(x.shape[-1]))), axis=-2)

    def log_prob(self, x: Float[Array, "... h w c"]) -> Float[Array, "..."]:
        """Return the log-probability in nats of the levels nearest to x: `sample_shape + batch_shape`."""
        channels = _log_prob_of_level(x[..., None], self._locations(x), self.log_scale)
        components = channels.sum(-2) + jax.nn.log_softmax(self.logits)
        return jax.nn.logsumexp(components, axis=-1).sum((-2, -1))

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """Return P(middle <= 255·x | low <= 255·x < high) of each pixel, jointly over its channels."""
        locations = self._locations(low / _TOP)  # wrong for channels after an undecoded one, where it is not used

        def weights(low: Levels) -> tuple[Float[Array, "... h w m"], Float[Array, "... h w m"]]:
            factor, exponent = _prob_between(low[..., None], high[..., None], locations, self.log_scale)
            return factor.prod(-2), exponent.sum(-2) + self.logits

        (total, e_total), (upper, e_upper) = map(weights, (low, middle))
        largest = e_total.max(-1, keepdims=True)
        return (upper * jnp.exp(e_upper - largest)).sum(-1) / (total * jnp.exp(e_total - largest)).sum(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... h w c"]:
        """Draw a component for each pixel, then one channel after another."""
        which_key, *keys = jax.random.split(key, 1 + self.loc.shape[-2])
        which = jax.random.categorical(which_key, self.logits, shape=sample_shape + self.logits.shape[:-1])
        one_hot = jax.nn.one_hot(which, self.logits.shape[-1])[..., None, :]
        log_scale = (self.log_scale * one_hot).sum(-1)
        x = jnp.zeros(log_scale.shape)
        for channel, channel_key in enumerate(keys):
            loc = (self._locations(x) * one_hot).sum(-1)
            x = x.at[..., channel].set(_draw_level(channel_key, loc[..., channel], log_scale[..., channel]))
        return x

    def mean(self) -> Float[Array, "*b h w c"]:
        """Return the weighted mean of the components' means before rounding, clipped to [0, 1]."""
        x = jnp.zeros(self.loc.shape)
        for channel in range(self.loc.shape[-2]):
            shift = (self.coefficients[..., channel, :channel, :] * x[..., :channel, :]).sum(-2)
            x = x.at[..., channel, :].set(jnp.clip(self.loc[..., channel, :] + shift, 0.0, 1.0))
        return (x * jax.nn.softmax(self.logits)[..., None, :]).sum(-1)


@pytree
class Categorical(Factorised):
    """Independent categorical distributions over the 256 levels.

    Args:
        logits: `batch_shape + event_shape + "256"`.
        event_ndim: number of axes before the last that make one event.
    """

    logits: Float[Array, "... 256"]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[int] = LEVELS

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-probability in nats of the levels nearest to x: `sample_shape + batch_shape`."""
        log_probs, level = jnp.broadcast_arrays(jax.nn.log_softmax(self.logits), _level(x)[..., None])
        return sum_event(jnp.take_along_axis(log_probs, level[..., :1], -1)[..., 0], self.event_ndim)

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """Return P(middle <= 255·x | low <= 255·x < high) of each pixel, jointly over its channels."""
        levels, (low, middle, high) = jnp.arange(LEVELS), (bound[..., None] for bound in (low, middle, high))
        probabilities = jax.nn.softmax(self.logits, where=(low <= levels) & (levels < high))
        return jnp.where(middle <= levels, probabilities, 0.0).sum(-1).prod(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw levels."""
        level = jax.random.categorical(key, self.logits, shape=sample_shape + self.logits.shape[:-1])
        return level.astype(self.logits.dtype) / _TOP

    def mean(self) -> Float[Array, "..."]:
        """Return the mean pixel value: `batch_shape + event_shape`."""
        return jax.nn.softmax(self.logits) @ (jnp.arange(LEVELS) / _TOP)


def _log_beta_ratio(alpha: Values, beta: Values, k: Values, m: Values) -> Values:
    """Return log B(k+α, m+β) / B(α, β), to about 1e-4 nats in float32 for k + m = 255.

    Subtracting log-gammas in the thousands would leave an error of 1e-3. So Γ(y+1) = y Γ(y) shifts the arguments of
    Γ(α+k) / Γ(α) to α + 4 and above, where two terms of Stirling's series suffice, and the large terms cancel
    analytically.
    """

    def below(a: Array, j: Array | int) -> Array:
        return jnp.log(math.prod((a + j + i) / (a + i) for i in range(4)))

    def correction(y: Array) -> Array:
        return 1 / (12 * y) - 1 / (360 * y**3)

    def rest(a: Array, j: Array | int) -> Array:
        y = a + 4
        return (y - 0.5) * jnp.log1p(j / y) + correction(y + j) - correction(y) - below(a, j)

    both = alpha + beta
    top = both + 4 + _TOP
    powers = k * jnp.log((alpha + 4 + k) / top) + m * jnp.log((beta + 4 + m) / top)
    return powers + rest(alpha, k) + rest(beta, m) - rest(both, _TOP)


@pytree
class BetaBinomial(Factorised):
    """Independent levels k with a beta-binomial distribution, p(k) = C(255, k) B(k+α, 255-k+β) / B(α, β).

    Args:
        log_alpha, log_beta: `batch_shape + event_shape`.
        event_ndim: number of trailing axes that make one event.
    """

    log_alpha: Float[Array, "..."]
    log_beta: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[int] = LEVELS

    def _concentrations(self) -> tuple[Values, Values]:
        bounded = (jnp.clip(log, -MAX_PIXEL_LOG_SCALE, MAX_PIXEL_LOG_SCALE) for log in (self.log_alpha, self.log_beta))
        alpha, beta = map(jnp.exp, bounded)
        return alpha, beta

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-probability in nats of the levels nearest to x: `sample_shape + batch_shape`."""
        (alpha, beta), level = self._concentrations(), _level(x)
        k, m = level.astype(alpha.dtype), (_TOP - level).astype(alpha.dtype)
        log_probs = jnp.asarray(_LOG_CHOOSE, alpha.dtype)[level] + _log_beta_ratio(alpha, beta, k, m)
        return sum_event(log_probs, self.event_ndim)

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """Return P(middle <= 255·x | low <= 255·x < high) of each pixel, jointly over its channels.

        Uses P(k + 1) / P(k) = (255 - k) (k + α) / ((k + 1) (254 - k + β)).
        """
        (alpha, beta), k = ((value[..., None] for value in self._concentrations()), jnp.arange(_TOP))
        log_ratios = jnp.log((_TOP - k) * (k + alpha) / ((k + 1) * (_TOP - 1 - k + beta)))
        logits = jnp.pad(jnp.cumsum(log_ratios, axis=-1), [(0, 0)] * self.log_alpha.ndim + [(1, 0)])
        return Categorical(logits).upper_share(low, middle, high)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw a probability for each pixel, then its 255 trials."""
        beta_key, trial_key = jax.random.split(key)
        probability = jax.random.beta(beta_key, *self._concentrations(), sample_shape + self.log_alpha.shape)
        return jax.random.binomial(trial_key, float(_TOP), probability) / _TOP

    def mean(self) -> Float[Array, "..."]:
        """Return α / (α + β): `batch_shape + event_shape`."""
        alpha, beta = self._concentrations()
        return alpha / (alpha + beta)
