"""A model's functions as files that others run: StableHLO for JAX alone, ONNX for everything else."""

from flax_vae.export.formats import FORMATS, Format, written
from flax_vae.export.functions import Argument, ModelFunction, model_functions

__all__ = ["FORMATS", "Argument", "Format", "ModelFunction", "model_functions", "written"]
