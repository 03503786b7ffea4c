"""Presets: models by name for images of any size, each with the recipe that trains it.

A preset assembles networks and the given distributions into a model. Its recipe lists the settings that differ from the
defaults. Every module of this folder is imported, so a new preset needs no other change.
"""

from flax_vae.parts import import_siblings
from flax_vae.presets.gated_mlp import gated_mlp
from flax_vae.presets.ladder import ladder
from flax_vae.presets.residual_conv import residual_conv
from flax_vae.presets.spec import PRESETS, ModelSpec, channel_means, preset
from flax_vae.presets.tutorial_conv import tutorial_conv
from flax_vae.presets.tutorial_dense import tutorial_dense

__all__ = [
    "PRESETS",
    "ModelSpec",
    "channel_means",
    "gated_mlp",
    "ladder",
    "preset",
    "residual_conv",
    "tutorial_conv",
    "tutorial_dense",
]

import_siblings(__name__, __path__)
