"""What a model is: whatever infers and generates.

Objectives, evaluation and sampling ask for no more, so a model of any shape, with latents of any shape, has them all.
What needs a flat latent vector, such as a picture of the latent plane, asks for a `FlatModel` by `require_flat`.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Key

from flax_vae.distributions.base import Distribution, LatentDistribution
from flax_vae.system.errors import UserError


class Layer(NamedTuple):
    """A stochastic layer after a draw; the sample axis k leads, also for one sample.

    Attributes:
        z: the draw, "k b ..." with an event of any shape.
        log_q: its log-density under the posterior, known since it was drawn, "k b".
        posterior: q(z_l | z_<l, x), with batch shape "b" at the top.
        prior: p(z_l | z_<l), which broadcasts against z.
    """

    z: Array
    log_q: Array
    posterior: LatentDistribution
    prior: LatentDistribution


class Inference(NamedTuple):
    """What a draw from the posterior gives an objective.

    Attributes:
        layers: the stochastic layers, top first; a flat VAE has one.
        likelihood: p(x | z), with batch shape "k b".
    """

    layers: tuple[Layer, ...]
    likelihood: Distribution


@runtime_checkable
class Model(Protocol):
    """A bound model."""

    def infer(self, x: Float[Array, "b h w c"], key: Key[Array, ""], num_samples: int = 1) -> Inference:
        """Draw `num_samples` latents per image from the posterior, by reparameterisation, and decode them."""

    def generate(self, key: Key[Array, ""], num_samples: int, temperature: float | Array = 1.0) -> Distribution:
        """p(x | z) for `num_samples` draws z from the prior, its scale times `temperature`."""


@runtime_checkable
class FlatModel(Model, Protocol):
    """A bound model whose latents are one vector."""

    def encode(self, x: Float[Array, "b h w c"]) -> LatentDistribution:
        """q(z | x), batch shape "b"."""

    def decode(self, z: Float[Array, "*k b d"]) -> Distribution:
        """p(x | z), batch shape "*k b"."""

    def prior(self) -> LatentDistribution:
        """p(z)."""


def is_flat(model: Any) -> bool:
    """Whether the latents of a model are one vector."""
    return all(hasattr(model, name) for name in ("encode", "decode", "prior"))


def require_flat(model: Any, what: str) -> None:
    """Raise UserError where `what` needs a flat latent vector and the model has none."""
    if not is_flat(model):
        raise UserError(f"{what} needs a model with one latent vector, which {type(model).__name__} does not have.")
