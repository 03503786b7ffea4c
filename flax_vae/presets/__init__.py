"""Presets: models by name for images of any size, each with the recipe that trains it.

A preset is a function that puts networks and the parts that it is given together. Its `recipe` holds the values of the
training's configuration that differ from the usual ones.
"""

from flax_vae.presets.gated_mlp import gated_mlp
from flax_vae.presets.given import PRESETS, channel_means
from flax_vae.presets.ladder import ladder
from flax_vae.presets.residual_conv import residual_conv
from flax_vae.presets.tutorial_conv import tutorial_conv
from flax_vae.presets.tutorial_dense import tutorial_dense

__all__ = ["PRESETS", "channel_means", "gated_mlp", "ladder", "residual_conv", "tutorial_conv", "tutorial_dense"]
