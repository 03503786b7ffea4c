"""The registry of priors, and a prior's reference to its model."""

from typing import Any

import flax.linen as nn

from flax_vae.parts import Parts

PRIORS = Parts("prior", supplied=("latent_dim", "image_shape", "images", "conditional"))


def model_of(prior: nn.Module) -> Any:
    """Return the model that owns a prior.

    `model.prior()` is part of the model's protocol, so a prior cannot receive its model as an argument.

    Raises:
        RuntimeError: the model no longer exists.
    """
    if prior.parent is None:  # Linen modules hold weak references to their parents
        raise RuntimeError("this prior needs its model, which no longer exists: keep model = bind(vae, params)")
    return prior.parent
