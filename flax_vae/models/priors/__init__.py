"""Priors: Linen modules that return p(z).

`encodes_each_step` marks a prior that runs the encoder in every step. A prior is registered with its `tables`: the
names of parameters with one row per component, which are not linear maps and which Muon must not orthogonalise. Every
module of this folder is imported, so a new prior, registered in `PRIORS`, needs no other change.
"""

from flax_vae.models.priors.base import PRIORS
from flax_vae.models.priors.flow import CouplingFlow
from flax_vae.models.priors.mixture import LearnedMixture
from flax_vae.models.priors.normal import ConditionalNormal, StandardNormal
from flax_vae.models.priors.top_down import TopDownPrior
from flax_vae.models.priors.vamp import VampPrior
from flax_vae.parts import import_siblings

__all__ = [
    "PRIORS",
    "ConditionalNormal",
    "CouplingFlow",
    "LearnedMixture",
    "StandardNormal",
    "TopDownPrior",
    "VampPrior",
]

import_siblings(__name__, __path__)
