"""Posteriors: Linen modules from an image's features to q(z | x).

A posterior declares whether it is `factorised` (dimensions independent given x) and whether its `mean()` is exact
(`exact_mean`). Every module of this folder is imported, so a new posterior, registered in `POSTERIORS`, needs no other
change.
"""

from flax_vae.models.posteriors.base import POSTERIORS
from flax_vae.models.posteriors.diagonal import DiagonalNormal
from flax_vae.models.posteriors.full import FullNormal
from flax_vae.models.posteriors.iaf import InverseAutoregressive
from flax_vae.models.posteriors.top_down import TopDownPosterior
from flax_vae.parts import import_siblings

__all__ = ["POSTERIORS", "DiagonalNormal", "FullNormal", "InverseAutoregressive", "TopDownPosterior"]

import_siblings(__name__, __path__)
