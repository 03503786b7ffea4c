"""The protocol of a model: every method that the package calls.

A model is a Linen module; the methods are called on a bound model, see `bind`. `Model` is enough for training with most
objectives, for bounds and for samples. Features that call more methods check for them by `require`.

A model may have a field `dtype`, the type its networks compute in, and fields `encoder` and `decoder`; see `with_dtype`
and `with_remat`. A conditional model reads its context by `self.get_variable("context", "value")`.
A model for missing values has a method `mask`, which reads `self.get_variable("mask", "value")`, and returns
likelihoods of the observed values; see `flax_vae.distributions.masked`.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int, Key

from flax_vae.batches import X
from flax_vae.distributions import Distribution, LatentDistribution, Normal
from flax_vae.system.errors import UserError

RandomKey = Key[Array, ""]
Temperature = float | Float[Array, ""]


class Layer(NamedTuple):
    """A stochastic layer after a draw; the sample axis k leads, also for one sample.

    Attributes:
        z: the draw, "k b ..." with an event of any shape.
        log_q: its log-density in nats under the posterior, known from drawing it, "k b".
        posterior: q(z_l | z_<l, x), with batch shape "b" at the top.
        prior: p(z_l | z_<l), which broadcasts against z.
    """

    z: Array
    log_q: Array
    posterior: LatentDistribution
    prior: LatentDistribution


class Inference(NamedTuple):
    """The result of inference, which objectives consume.

    Attributes:
        layers: the stochastic layers, top first; a flat VAE has one.
        likelihood: p(x | z), with batch shape "k b".
    """

    layers: tuple[Layer, ...]
    likelihood: Distribution


@runtime_checkable
class Model(Protocol):
    """A bound model."""

    def infer(self, x: X, key: RandomKey, num_samples: int = 1, temperature: Temperature = 1.0) -> Inference:
        """Draw `num_samples` latents per image from the posterior, by reparameterisation, and decode them.

        With a `temperature` the posterior's scale is multiplied by it, and the layers hold the tempered posterior.
        """

    def generate(self, key: RandomKey, num_samples: int, temperature: Temperature = 1.0) -> Distribution:
        """Return p(x | z) for `num_samples` draws z from the prior, with its scale times `temperature`."""


@runtime_checkable
class InferableAt(Model, Protocol):
    """A model that infers at given latents: for `stl` and `dreg`, annealed sampling, compression and export."""

    def infer_at(self, x: X, latents: tuple[Float[Array, "k b ..."], ...]) -> Inference:
        """Infer at given latents, one array per layer."""


@runtime_checkable
class SingleLayer(Model, Protocol):
    """A model whose latents are one vector: for everything that shows or moves through the latent space."""

    def encode(self, x: X) -> LatentDistribution:
        """Return q(z | x), batch shape "b"."""

    def decode(self, z: Float[Array, "*k b d"]) -> Distribution:
        """Return p(x | z), batch shape "*k b"."""

    def prior(self) -> LatentDistribution:
        """Return p(z), without batch axes; in a conditional model it may have batch shape "b"."""


@runtime_checkable
class LadderModel(Model, Protocol):
    """A model with maps of latents below a vector: for reconstructions layer by layer, and the explorer."""

    def infer_top(self, x: X, key: RandomKey, known: int | Int[Array, ""]) -> Inference:
        """Infer one sample, with the layers below the first `known` set to the means of their priors."""

    def decode_top(self, z: Float[Array, "n d"], choose: Callable[[int, Normal], Array]) -> Distribution:
        """Return p(x | z) for latents of the top layer, with `choose(number, prior)` for the maps below."""


Need = Literal["single_layer", "infer_at", "ladder", "mask"]
_NEEDS: dict[Need, tuple[str, tuple[str, ...]]] = {  # a noun phrase for messages, and the methods
    "single_layer": ("one latent vector", ("encode", "decode", "prior")),
    "infer_at": ("the method infer_at", ("infer_at",)),
    "ladder": ("a ladder of latents", ("infer_top", "decode_top")),
    "mask": ("a likelihood of observed values, declared by a method mask", ("mask",)),
}


def provides(model: Any, need: Need) -> bool:
    """Return True if a model, bound or not, has the methods of a need."""
    return all(hasattr(model, name) for name in _NEEDS[need][1])


def require(model: Any, *needs: Need, what: str) -> None:
    """Raise UserError if `what` needs methods that a model does not have.

    Args:
        model: the model, bound or not.
        *needs: "single_layer", "infer_at", "ladder" or "mask".
        what: the function, objective or command that calls the methods, for the message.
    """
    for need in needs:
        if not provides(model, need):
            raise UserError(f"{what} needs a model with {_NEEDS[need][0]}, which {type(model).__name__} does not have.")
