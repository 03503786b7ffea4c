"""Priors: Linen modules that return p(z).

`encodes_each_step` marks a prior that runs the encoder in every step. A prior is registered with its `tables`: the
names of parameters with one row per component, which are not linear maps and which Muon must not orthogonalise. Every
module of this folder is imported, so a new prior, registered in `PRIORS`, needs no other change.
"""

import flax.linen as nn

from flax_vae.parts import Parts, import_siblings
from flax_vae.system.errors import UserError

PRIORS = Parts(
    "prior", supplied=("latent_dim", "image_shape", "images", "conditional"), made=(nn.Module, "a Linen module")
)


def refuse_unconditional(prior: str) -> None:
    """Raise UserError unless a prior can depend on the context of a conditional model."""
    if not PRIORS.accepts(prior, "conditional"):
        priors = " or ".join(name for name in PRIORS if PRIORS.accepts(name, "conditional"))
        raise UserError(f"`conditional` requires `prior` {priors}, not {prior}.")


import_siblings(__name__, __path__)
