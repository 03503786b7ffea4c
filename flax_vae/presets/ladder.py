"""A hierarchy of spatial latents."""

from functools import partial

from flax_vae.models.ladder import Ladder, TopDown
from flax_vae.models.likelihoods import Mean
from flax_vae.nn.layers import BottomUp, ImageShape
from flax_vae.parts import LayerCount
from flax_vae.presets.given import CONVOLUTIONAL, PRESETS, Part, assemble
from flax_vae.system.errors import UserError

_LADDER = CONVOLUTIONAL | {"epochs": 4, "batch_size": 64, "latent_dim": 16, "kl_warmup_epochs": 1.0}


@PRESETS.register("ladder", recipe=_LADDER, flat=False)
def ladder(
    image_shape: ImageShape,
    latent_dim: int = 2,
    posterior: Part = None,
    prior: Part = None,
    likelihood: Part = None,
    mean: Mean | None = None,
    widths: tuple[int, ...] = (32, 32, 64),
    depths: tuple[LayerCount, ...] = (1, 2, 1),
    channels: int = 4,
    blocks: LayerCount = 1,
    patch: int = 2,
) -> Ladder:
    """A hierarchy of spatial latents: maps of `channels`, `depths` of them at each size, below a vector.

    Args:
        image_shape: "h w c".
        latent_dim, posterior, prior: of the top layer.
        likelihood, mean: as for `tutorial_conv`.
        widths: features at each size, the finest first; each is half of the one before.
        depths: stochastic layers at each size.
        channels: of each layer.
        blocks: residual blocks at each size, on the way up; on the way down there is one after each layer.
        patch: side in pixels of what is one position at the finest size.

    Raises:
        UserError: another number of `depths` than of `widths`, or none.
    """
    if not widths or len(widths) != len(depths):
        raise UserError(f"ladder has a width and a depth for each size, not widths={widths} and depths={depths}.")
    encoder = BottomUp(widths, blocks, patch)
    decoder = partial(TopDown, widths=widths, depths=depths, channels=channels, patch=patch)
    return assemble(Ladder, encoder, decoder, image_shape, latent_dim, posterior, prior, likelihood, mean)
