"""Priors: Linen modules that return p(z).

`encodes_each_step` marks a prior that runs the encoder in every step. A prior is registered with its `tables`: the
names of parameters with one row per component, which are not linear maps and which Muon must not orthogonalise. Every
module of this folder is imported, so a new prior, registered in `PRIORS`, needs no other change.
"""

import flax.linen as nn

from flax_vae.parts import Parts, import_siblings

PRIORS = Parts(
    "prior", supplied=("latent_dim", "image_shape", "images", "conditional"), made=(nn.Module, "a Linen module")
)
import_siblings(__name__, __path__)
