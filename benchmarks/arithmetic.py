"""How much a model has to compute, by its definition: what measured speeds are held against."""

from math import prod

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
