"""Likelihood heads: from a decoder's output, "*b h w o" or "*b o", to p(x | z).

`start(mean)` returns the initial value of each of the o channels of the head's input, such that the untrained model
decodes to the average example. `pixel_levels` is the number of values of a pixel, or None for densities; `support` is
the set of values of x that the distribution takes. A plain function from outputs to a distribution can be used as well,
if the decoder's output fits.

Every module of this folder is imported, so a new head, registered by `@likelihood`, needs no other change.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from flax_vae.batches import UNIT
from flax_vae.parts import Parts, import_siblings

Mean = tuple[float, ...]  # of each channel of the images, in [0, 1], or of each value of a vector
Head = TypeVar("Head", bound=type)


@runtime_checkable
class LikelihoodHead(Protocol):
    """A likelihood that presets can use."""

    def start(self, mean: Mean) -> tuple[float, ...]:
        """Return the initial value of each channel of the head's input."""

    def __call__(self, outputs: Any) -> Any:
        """Return p(x | z) from the decoder's output."""


LIKELIHOODS = Parts("likelihood", made=(LikelihoodHead, "a likelihood with a method start"))


def likelihood(name: str, distribution: Any) -> Callable[[Head], Head]:
    """Register a head under a name, with the `pixel_levels` and the `support` of the distribution that it returns."""

    def register(head: Head) -> Head:
        head.pixel_levels = distribution.pixel_levels  # type: ignore[attr-defined]
        head.support = getattr(distribution, "support", UNIT)  # type: ignore[attr-defined]
        needs = ("images",) if (distribution.pixel_levels or 0) > 2 else ()
        return LIKELIHOODS.register(name, needs=needs)(head)

    return register


def with_event_ndim(distribution: Any, event_ndim: int) -> Any:
    """Set the number of event axes of a head's distribution to that of an example: heads are written for images."""
    if getattr(distribution, "event_ndim", event_ndim) == event_ndim:
        return distribution
    return replace(distribution, event_ndim=event_ndim)


def inside(mean: Mean) -> Mean:
    """Clip a mean away from 0 and 1, whose logits are infinite."""
    return tuple(min(max(m, 1e-3), 1 - 1e-3) for m in mean)


def logits(mean: Mean) -> Mean:
    """Return the logit of each channel's mean."""
    return tuple(math.log(m / (1 - m)) for m in inside(mean))


import_siblings(__name__, __path__)
