"""KL divergences in closed form."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.distributions.base import sum_event
from flax_vae.distributions.normal import MultivariateNormal, Normal


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
