"""A likelihood of several views."""

from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float, Key

from flax_vae.batches import X
from flax_vae.pytrees import by_name, from_names, map_views, pytree


@pytree
class Views:
    """Views that are independent given the latents.

        log p(x) = Σ_v log p(x_v)

    Args:
        views: a tuple or a dictionary of distributions, one for each view of x.
    """

    views: tuple[Any, ...] | Mapping[str, Any]

    def log_prob(self, x: X) -> Float[Array, "..."]:
        """Return the log-probability in nats, summed over the views: `sample_shape + batch_shape`."""
        return sum(by_name(map_views(lambda view, x: view.log_prob(x), self.views, x)).values())

    def sample(self, key: Key[Array, ""], sample_shape: tuple[int, ...] = ()) -> X:
        """Draw every view: `sample_shape + batch_shape + event_shape`."""
        named = by_name(self.views)
        keys = jax.random.split(key, len(named))
        return from_names({name: named[name].sample(keys[i], sample_shape) for i, name in enumerate(sorted(named))})

    def mean(self) -> X:
        """Return the mean of every view: `batch_shape + event_shape`."""
        return map_views(lambda view: view.mean(), self.views)
