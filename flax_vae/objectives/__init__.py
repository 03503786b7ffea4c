"""Losses: functions of a bound model, in nats per image. Each family is one file."""

from flax_vae.objectives.base import OBJECTIVES, Metrics, Objective
from flax_vae.objectives.binarized import DynamicallyBinarized
from flax_vae.objectives.elbo import ELBO, Capacity, FreeBits
from flax_vae.objectives.importance_weighted import IWAE, STL, DReG, Renyi
from flax_vae.objectives.regularised import DIPVAE, BetaTCVAE, InfoVAE
from flax_vae.objectives.schedules import Cyclical, Schedule, Warmup
from flax_vae.objectives.terms import dimension_rates, distortion, elbo_terms, layer_rates, log_weights, rate
from flax_vae.parts import import_siblings

__all__ = [
    "DIPVAE",
    "ELBO",
    "IWAE",
    "OBJECTIVES",
    "STL",
    "BetaTCVAE",
    "Capacity",
    "Cyclical",
    "DReG",
    "DynamicallyBinarized",
    "FreeBits",
    "InfoVAE",
    "Metrics",
    "Objective",
    "Renyi",
    "Schedule",
    "Warmup",
    "dimension_rates",
    "distortion",
    "elbo_terms",
    "layer_rates",
    "log_weights",
    "rate",
]

import_siblings(__name__, __path__)
