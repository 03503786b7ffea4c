"""The registration of likelihoods, and starting values that several of them share."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from flax_vae.models.likelihoods import LIKELIHOODS

Mean = tuple[float, ...]  # of each channel of the images, in [0, 1]
Head = TypeVar("Head", bound=type)


def likelihood(name: str, distribution: Any) -> Callable[[Head], Head]:
    """Register a head under a name, with the `pixel_levels` of the distribution that it returns."""

    def register(head: Head) -> Head:
        head.pixel_levels = distribution.pixel_levels  # type: ignore[attr-defined]
        return LIKELIHOODS.register(name)(head)

    return register


def inside(mean: Mean) -> Mean:
    """Clip a mean away from 0 and 1, whose logits are infinite."""
    return tuple(min(max(m, 1e-3), 1 - 1e-3) for m in mean)


def logits(mean: Mean) -> Mean:
    """Return the logit of each channel's mean."""
    return tuple(math.log(m / (1 - m)) for m in inside(mean))
