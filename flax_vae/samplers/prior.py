"""Latents from the prior."""

from flax_vae.models import Context
from flax_vae.samplers import SAMPLERS, Sampler
from flax_vae.sampling import sample


@SAMPLERS.register("prior")
def prior(temperature: float = 1.0, context: Context = None) -> Sampler:
    """Draws latents from the prior.

    Args:
        temperature: factor for the prior's standard deviation.
        context: contexts of the images, for a conditional model.
    """
    return lambda model, params, key, num_samples, pixel_key=None: sample(
        model, params, key, num_samples, temperature, context, pixel_key
    )
