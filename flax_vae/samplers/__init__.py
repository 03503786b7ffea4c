"""Samplers: ways to draw the latents of new images, one file each.

A registered function returns a sampler, `(model, params, key, num_samples, pixel_key)` -> images "n h w c" or vectors
"n v": means of p(x | z), or draws from it given a `pixel_key`.
"""

from collections.abc import Callable

from flax_vae.batches import X
from flax_vae.parts import Parts, import_siblings

Sampler = Callable[..., X]
SAMPLERS = Parts(
    "sampler",
    supplied=("temperature", "context", "images"),
    called_with="model, params, key, num_samples, pixel_key",
)
import_siblings(__name__, __path__)
