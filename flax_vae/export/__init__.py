"""Trained models as files for others: functions or parameters, a model card, pictures and checksums."""

from flax_vae.export.formats import FORMATS, Format
from flax_vae.export.functions import Argument, ModelFunction, model_functions

__all__ = ["FORMATS", "Argument", "Format", "ModelFunction", "model_functions"]
