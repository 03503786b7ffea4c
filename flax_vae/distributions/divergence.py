"""KL divergences in closed form, registered per pair of distributions."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.base import sum_event
from flax_vae.distributions.normal import MultivariateNormal, Normal
from flax_vae.system.settings import by_default

Formula = TypeVar("Formula", bound=Callable[..., Array])
_FORMULAS: dict[tuple[type, type], Callable[..., Array]] = {}


def register_kl(q: type, p: type) -> Callable[[Formula], Formula]:
    """Register (q, p) -> KL(q || p) for a pair of types and their subclasses."""

    def add(formula: Formula) -> Formula:
        _FORMULAS[q, p] = formula
        return formula

    return add


def _formula(q: Any, p: Any) -> Callable[..., Array] | None:
    pairs = ((a, b) for a in type(q).__mro__ for b in type(p).__mro__)
    return next((_FORMULAS[pair] for pair in pairs if pair in _FORMULAS), None)


def has_kl(q: Any, p: Any) -> bool:
    """Return True if a closed form is registered for this pair."""
    return _formula(q, p) is not None


@by_default
def kl_divergence(q: Any, p: Any) -> Float[Array, "..."]:
    """Return KL(q || p) in nats, in closed form: the broadcast batch shapes of q and p.

    Raises:
        TypeError: no closed form is registered for this pair.
    """
    formula = _formula(q, p)
    if formula is None:
        raise TypeError(f"KL(q || p) has no closed form for {type(q).__name__} and {type(p).__name__}")
    return formula(q, p)


@register_kl(Normal, Normal)
def _between_normals(q: Normal, p: Normal) -> Float[Array, "..."]:
    """Return ½ Σ_d [σ²/τ² + (μ-m)²/τ² - 1 - log σ²/τ²] for q = N(μ, σ²) and p = N(m, τ²)."""
    log_ratio = q.log_scale - p.log_scale
    distance = (q.loc - p.loc) * jnp.exp(-p.log_scale)
    # expm1 keeps the digits that cancel in σ²/τ² - 1 if the posterior is close to the prior.
    return sum_event(0.5 * (jnp.expm1(2 * log_ratio) + distance**2) - log_ratio, q.event_ndim)


@register_kl(MultivariateNormal, Normal)
def _from_independent_normal(q: MultivariateNormal, p: Normal) -> Float[Array, "..."]:
    """Return the KL of q's marginals plus ½ [Σ_d log σ² - log det Σ], with σ² the diagonal of q's covariance Σ."""
    log_scale = 0.5 * jnp.log((q.scale_tril**2).sum(-1))
    return _between_normals(Normal(q.loc, log_scale), p) + log_scale.sum(-1) - q.log_determinant()
