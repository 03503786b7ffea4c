"""Posteriors: Linen modules from an image's features to q(z | x).

A posterior declares whether it is `factorised` (dimensions independent given x) and whether its `mean()` is exact
(`exact_mean`). Every module of this folder is imported, so a new posterior, registered in `POSTERIORS`, needs no other
change.
"""

import flax.linen as nn

from flax_vae.parts import Parts, import_siblings

POSTERIORS = Parts("posterior", supplied=("latent_dim",), made=(nn.Module, "a Linen module"))
import_siblings(__name__, __path__)
