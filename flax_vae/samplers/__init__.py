"""Samplers: ways to draw the latents of new images, one file each.

A sampler is a frozen dataclass. `sampler(vae, params, key, num_samples, pixel_key)` returns images "n h w c": means of
p(x | z), or draws from it given a `pixel_key`.
"""

from flax_vae.parts import Parts, import_siblings

SAMPLERS = Parts("sampler", supplied=("temperature", "context", "images"))
import_siblings(__name__, __path__)
