"""Distributions of pixels that have one of the 256 levels k / 255 of a uint8 pixel: p(x | z).

Beside `log_prob` they have `upper_share`, by which an entropy coder finds a level in eight halvings: the probability
that a level is at least `middle`, where it is known to be at least `low` and less than `high`. It is of each pixel, all
its channels together, since channels may depend on those before them: of these `low` is the level, and so is `middle`,
and `high` is one more.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key

from flax_vae.distributions.base import sum_event
from flax_vae.pytrees import pytree

Levels = Int[Array, "... h w c"]
LEVELS = 256
_TOP = LEVELS - 1
_HALF_STEP = 0.5 / _TOP
_LOG_CHOOSE = np.log([float(math.comb(_TOP, k)) for k in range(LEVELS)])
MAX_PIXEL_LOG_SCALE = 7.0  # of a pixel: from a thousandth, a quarter of a level, to far beyond the whole range


def _level(x: Float[Array, "..."]) -> Int[Array, "..."]:
    return jnp.round(x * _TOP).astype(jnp.int32)


def _log_prob_of_level(
    x: Float[Array, "..."], loc: Float[Array, "..."], log_scale: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Log-probability that a logistic variable rounds to the level x; the outer levels take the tails.

    The exact difference of two sigmoids, with a < b: σ(b) - σ(a) = σ(b) σ(-a) (1 - e^(a - b)).
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
    low: Int[Array, "..."], high: Int[Array, "..."], loc: Float[Array, "..."], log_scale: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """P(low <= level < high) of a logistic variable, as f and e of f eᵉ: far from the location e alone is small.

    With a and b the ends of the interval in scales from the location, σ(b) - σ(a) = σ(b) σ(-a) (1 - e^(a - b)), where
    σ(b) = e^min(b, 0) / (1 + e^-|b|).
    """
    inverse = jnp.exp(-jnp.clip(log_scale, -MAX_PIXEL_LOG_SCALE, MAX_PIXEL_LOG_SCALE))
    a = jnp.where(low > 0, (low / _TOP - _HALF_STEP - loc) * inverse, -jnp.inf)
    b = jnp.where(high < LEVELS, (high / _TOP - _HALF_STEP - loc) * inverse, jnp.inf)
    factor = -jnp.expm1(a - b) / ((1 + jnp.exp(-jnp.abs(a))) * (1 + jnp.exp(-jnp.abs(b))))
    return factor, jnp.minimum(b, 0) - jnp.maximum(a, 0)


def _draw_level(key: Array, loc: Float[Array, "..."], log_scale: Float[Array, "..."]) -> Float[Array, "..."]:
    scale = jnp.exp(jnp.clip(log_scale, -MAX_PIXEL_LOG_SCALE, MAX_PIXEL_LOG_SCALE))
    x = loc + scale * jax.random.logistic(key, loc.shape, loc.dtype)
    return _level(jnp.clip(x, 0.0, 1.0)).astype(loc.dtype) / _TOP


@pytree
class DiscretizedLogistic:
    """Independent logistic variables rounded to the 256 levels (Kingma et al. 2016); the outer levels take the tails.

    Args:
        loc, log_scale: of the variable before rounding, `batch_shape + event_shape`; levels lie in [0, 1].
        event_ndim: number of trailing axes that make one event.
    """

    loc: Float[Array, "..."]
    log_scale: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[int] = LEVELS

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-probability in nats of the levels nearest to x: `sample_shape + batch_shape`."""
        return sum_event(_log_prob_of_level(x, self.loc, self.log_scale), self.event_ndim)

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """P(middle <= 255·x | low <= 255·x < high) of each pixel, all its channels."""
        whole, e_whole = _prob_between(low, high, self.loc, self.log_scale)
        upper, e_upper = _prob_between(middle, high, self.loc, self.log_scale)
        return (upper / whole * jnp.exp(e_upper - e_whole)).prod(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw levels."""
        return _draw_level(key, jnp.broadcast_to(self.loc, sample_shape + self.loc.shape), self.log_scale)

    def mean(self) -> Float[Array, "..."]:
        """Location, within [0, 1]: the median, and but for rounding and tails the mean."""
        return jnp.clip(self.loc, 0.0, 1.0)


@pytree
class MixtureOfLogistics:
    """Mixtures of discretised logistics, one component for all channels of a pixel (Salimans et al. 2017).

    Within a component a channel's location depends linearly on the channels before it:
    loc_c + Σ_{d < c} coefficient_cd · x_d.

    Args:
        logits: of the components, `batch_shape + "h w m"`.
        loc, log_scale: `batch_shape + "h w c m"`.
        coefficients: `batch_shape + "h w c c m"`, of which those with d < c count.
    """

    logits: Float[Array, "*b h w m"]
    loc: Float[Array, "*b h w c m"]
    log_scale: Float[Array, "*b h w c m"]
    coefficients: Float[Array, "*b h w c c m"]
    pixel_levels: ClassVar[int] = LEVELS

    def _locations(self, x: Float[Array, "... h w c"]) -> Float[Array, "... h w c m"]:
        # Channel by channel: as one product "k b h w c c m", jaxlib 0.10.2 crashes on CPUs where it is summed.
        def of(c: int) -> Float[Array, "... h w m"]:
            before = (self.coefficients[..., c, d, :] * x[..., d, None] for d in range(c))
            return sum(before, start=self.loc[..., c, :])

        return jnp.stack(jnp.broadcast_arrays(*map(of, range(x.shape[-1]))), axis=-2)

    def log_prob(self, x: Float[Array, "... h w c"]) -> Float[Array, "..."]:
        """Log-probability in nats of the levels nearest to x: `sample_shape + batch_shape`."""
        of_channels = _log_prob_of_level(x[..., None], self._locations(x), self.log_scale)
        of_components = of_channels.sum(-2) + jax.nn.log_softmax(self.logits)
        return jax.nn.logsumexp(of_components, axis=-1).sum((-2, -1))

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """P(middle <= 255·x | low <= 255·x < high) of each pixel, all its channels."""
        locations = self._locations(low / _TOP)  # wrong for channels after one that is not known, but no matter there

        def of_components(low: Levels) -> tuple[Float[Array, "... h w m"], Float[Array, "... h w m"]]:
            factor, exponent = _prob_between(low[..., None], high[..., None], locations, self.log_scale)
            return factor.prod(-2), exponent.sum(-2) + self.logits

        (whole, e_whole), (upper, e_upper) = map(of_components, (low, middle))
        largest = e_whole.max(-1, keepdims=True)
        return (upper * jnp.exp(e_upper - largest)).sum(-1) / (whole * jnp.exp(e_whole - largest)).sum(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "... h w c"]:
        """Draw a component for each pixel, then one channel after the other."""
        which_key, *keys = jax.random.split(key, 1 + self.loc.shape[-2])
        which = jax.random.categorical(which_key, self.logits, shape=sample_shape + self.logits.shape[:-1])
        chosen = jax.nn.one_hot(which, self.logits.shape[-1])[..., None, :]
        log_scale = (self.log_scale * chosen).sum(-1)
        x = jnp.zeros(log_scale.shape)
        for channel, channel_key in enumerate(keys):
            loc = (self._locations(x) * chosen).sum(-1)
            x = x.at[..., channel].set(_draw_level(channel_key, loc[..., channel], log_scale[..., channel]))
        return x

    def mean(self) -> Float[Array, "*b h w c"]:
        """Means of the components before rounding, within [0, 1], averaged with their weights."""
        x = jnp.zeros(self.loc.shape)
        for channel in range(self.loc.shape[-2]):
            before = (self.coefficients[..., channel, :channel, :] * x[..., :channel, :]).sum(-2)
            x = x.at[..., channel, :].set(jnp.clip(self.loc[..., channel, :] + before, 0.0, 1.0))
        return (x * jax.nn.softmax(self.logits)[..., None, :]).sum(-1)


@pytree
class Categorical:
    """Independent categorical distributions over the 256 levels.

    Args:
        logits: `batch_shape + event_shape + "256"`.
        event_ndim: number of axes before the last that make one event.
    """

    logits: Float[Array, "... 256"]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[int] = LEVELS

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-probability in nats of the levels nearest to x: `sample_shape + batch_shape`."""
        log_probs, level = jnp.broadcast_arrays(jax.nn.log_softmax(self.logits), _level(x)[..., None])
        return sum_event(jnp.take_along_axis(log_probs, level[..., :1], -1)[..., 0], self.event_ndim)

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """P(middle <= 255·x | low <= 255·x < high) of each pixel, all its channels."""
        every, (low, middle, high) = jnp.arange(LEVELS), (each[..., None] for each in (low, middle, high))
        probabilities = jax.nn.softmax(self.logits, where=(low <= every) & (every < high))
        return jnp.where(middle <= every, probabilities, 0.0).sum(-1).prod(-1)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw levels."""
        level = jax.random.categorical(key, self.logits, shape=sample_shape + self.logits.shape[:-1])
        return level.astype(self.logits.dtype) / _TOP

    def mean(self) -> Float[Array, "..."]:
        """Expected pixel value: `batch_shape + event_shape`."""
        return jax.nn.softmax(self.logits) @ (jnp.arange(LEVELS) / _TOP)


def _log_beta_ratio(
    alpha: Float[Array, "..."], beta: Float[Array, "..."], k: Float[Array, "..."], m: Float[Array, "..."]
) -> Float[Array, "..."]:
    """log B(k+α, m+β) / B(α, β), to about 1e-4 nats in float32 for k + m = 255.

    Log-gammas of thousands would leave 1e-3 of their difference. So each Γ(α+k) / Γ(α) is brought to α + 4 and up by
    Γ(y+1) = y Γ(y), where two terms of Stirling's series are exact, and the large parts are cancelled on paper.
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
class BetaBinomial:
    """Independent levels k of 255 trials whose probability is beta distributed: C(255, k) B(k+α, 255-k+β) / B(α, β).

    Args:
        log_alpha, log_beta: `batch_shape + event_shape`.
        event_ndim: number of trailing axes that make one event.
    """

    log_alpha: Float[Array, "..."]
    log_beta: Float[Array, "..."]
    event_ndim: int = struct.field(pytree_node=False, default=3)
    pixel_levels: ClassVar[int] = LEVELS

    def _concentrations(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        bounded = (jnp.clip(log, -MAX_PIXEL_LOG_SCALE, MAX_PIXEL_LOG_SCALE) for log in (self.log_alpha, self.log_beta))
        alpha, beta = map(jnp.exp, bounded)
        return alpha, beta

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Log-probability in nats of the levels nearest to x: `sample_shape + batch_shape`."""
        (alpha, beta), level = self._concentrations(), _level(x)
        k, m = level.astype(alpha.dtype), (_TOP - level).astype(alpha.dtype)
        log_probs = jnp.asarray(_LOG_CHOOSE, alpha.dtype)[level] + _log_beta_ratio(alpha, beta, k, m)
        return sum_event(log_probs, self.event_ndim)

    def upper_share(self, low: Levels, middle: Levels, high: Levels) -> Float[Array, "... h w"]:
        """P(middle <= 255·x | low <= 255·x < high) of each pixel, all its channels.

        By P(k + 1) / P(k) = (255 - k) (k + α) / ((k + 1) (254 - k + β)).
        """
        (alpha, beta), k = ((each[..., None] for each in self._concentrations()), jnp.arange(_TOP))
        log_ratios = jnp.log((_TOP - k) * (k + alpha) / ((k + 1) * (_TOP - 1 - k + beta)))
        logits = jnp.pad(jnp.cumsum(log_ratios, axis=-1), [(0, 0)] * self.log_alpha.ndim + [(1, 0)])
        return Categorical(logits).upper_share(low, middle, high)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw levels: a probability for each pixel, then its 255 trials."""
        beta_key, trial_key = jax.random.split(key)
        probability = jax.random.beta(beta_key, *self._concentrations(), sample_shape + self.log_alpha.shape)
        return jax.random.binomial(trial_key, float(_TOP), probability) / _TOP

    def mean(self) -> Float[Array, "..."]:
        """α / (α + β): `batch_shape + event_shape`."""
        alpha, beta = self._concentrations()
        return alpha / (alpha + beta)
