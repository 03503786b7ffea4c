"""A likelihood of the values that were observed."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from flax_vae.distributions.base import Distribution, sum_event
from flax_vae.distributions.views import Views
from flax_vae.pytrees import map_views, pytree
from flax_vae.system.errors import UserError


@pytree
class Masked:
    """A distribution whose log-probability sums over observed values only; missing ones are integrated out.

        log p(x_observed) = Σ_observed log p(x_i)

    Objectives need no change to work with missing values: IWAE becomes MIWAE (Mattei & Frellsen 2019).

    Args:
        base: a distribution of independent values, such as `Bernoulli` or `Normal`: it has `marginals`.
        observed: True for each observed value, `batch_shape + event_shape`.
    """

    base: Any
    observed: Bool[Array, "..."]

    def log_prob(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return the log-probability in nats of the observed values: `sample_shape + batch_shape`.

        Missing values must be finite: a gradient through `where` is NaN if the term that it drops is not.
        """
        return sum_event(jnp.where(self.observed, self.base.marginals().log_prob(x), 0), self.base.event_ndim)

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
        """Draw all values, observed or not."""
        return self.base.sample(key, sample_shape)

    def mean(self) -> Float[Array, "..."]:
        """Return the mean of all values: `batch_shape + event_shape`."""
        return self.base.mean()


def masked(distribution: Distribution, observed: Any) -> Distribution:
    """Return the distribution of observed values; without a mask, the distribution itself.

    Args:
        distribution: the distribution.
        observed: True for each observed value; for `Views`, the mask of each view.

    Raises:
        UserError: the values are not independent, so missing ones cannot be left out.
    """
    if observed is None:
        return distribution
    if isinstance(distribution, Views):
        return Views(map_views(masked, distribution.views, observed))
    if not hasattr(distribution, "marginals"):
        raise UserError(
            "A mask needs a likelihood of independent values, with a method marginals, which "
            f"{type(distribution).__name__} does not have: choose another `likelihood`, or fill in the missing values."
        )
    return Masked(distribution, observed)
