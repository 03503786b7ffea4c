"""How much a model has to compute, by its definition: what measured speeds are held against."""

from itertools import chain
from math import prod
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

from flax_vae.nn.layers import ImageShape


def macs(model: str, image_shape: ImageShape = (28, 28, 1), latent_dim: int = 2) -> int:
    """Multiplications with an addition in one forward pass for one image.

    Convolutions count as written, on upsampled images in full. A training step is three times that.
    """
    if model == "gated_mlp":
        inputs, gates = prod(image_shape), 2 * 300
        return inputs * gates + 300 * gates + 300 * 2 * latent_dim + latent_dim * gates + 300 * gates + 300 * inputs
    height, width, channels = image_shape
    quarter = -(-height // 4) * -(-width // 4)  # pixels after two poolings
    half, full = 4 * quarter, 16 * quarter
    encoder = 9 * (full * channels * 32 + half * 32 * 64) + quarter * 64 * 16 + 16 * 2 * latent_dim
    decoder = latent_dim * quarter * 64 + 9 * (quarter * 64 * 64 + half * 64 * 32 + full * 32 * channels)
    return encoder + decoder


def multiplications(jaxpr: Any) -> float:
    """Count the multiplications of all matrix products and convolutions in a program."""
    total = 0.0
    for equation in jaxpr.eqns:
        out = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            total += prod(out.shape) * prod(equation.invars[1].aval.shape[:-1])
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += prod(out.shape) * prod(equation.invars[0].aval.shape[i] for i in contracted)
        values = (value if isinstance(value, tuple) else (value,) for value in equation.params.values())
        inner = [multiplications(each) for each in chain(*values) if isinstance(each, ClosedJaxpr | Jaxpr)]
        total += min(inner) if "branches" in equation.params else sum(inner)  # one of the forms for each platform
    return total
