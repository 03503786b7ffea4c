"""What the densities share."""

import math

from jaxtyping import Array, Float

# exp(±15) squared is far inside float32: with log-scales within it no output of a network makes latents infinite.
MAX_LOG_SCALE = 15.0
LOG_2PI = math.log(2 * math.pi)


def sum_event(x: Float[Array, "..."], event_ndim: int) -> Float[Array, "..."]:
    """Sum over the last `event_ndim` axes."""
    return x.sum(tuple(range(-event_ndim, 0)))


def flatten_event(x: Float[Array, "..."], event_ndim: int) -> Float[Array, "... e"]:
    """The event axes as one."""
    return x.reshape(*x.shape[: x.ndim - event_ndim], -1)
