"""Likelihood heads: from a decoder's output "*b h w o" to p(x | z).

`start(mean)` returns the initial value of each of the o channels of the head's input, such that the untrained model
decodes to the average image. `pixel_levels` is the number of values of a pixel, or None for densities. A plain function
from outputs to a distribution can be used as well, if the decoder's output fits.

Every module of this folder is imported, so a new head, registered by `@likelihood`, needs no other change.
"""

from flax_vae.parts import Parts, import_siblings

LIKELIHOODS = Parts("likelihood")
import_siblings(__name__, __path__)
