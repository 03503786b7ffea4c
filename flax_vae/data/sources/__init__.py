"""Data sources: one file each, with a function that loads a split as `Examples`.

Sets with names are registered in `SOURCES`.
"""

from flax_vae.parts import Parts, import_siblings

SOURCES = Parts("dataset", supplied=("split", "data_dir"))

import_siblings(__name__, __path__)
