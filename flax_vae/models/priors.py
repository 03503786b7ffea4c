"""Linen modules that give p(z).

A prior that passes images through the encoder in each step says so by `encodes_each_step`. It is registered with its
`tables`: the names of parameters with one row per component, which are not linear maps, as Muon has to know.
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logit
from jaxtyping import Array, Float

from flax_vae.batches import StoredImages
from flax_vae.distributions.base import MAX_LOG_SCALE
from flax_vae.distributions.chain import Chain
from flax_vae.distributions.flow import Flow
from flax_vae.distributions.mixture import Mixture
from flax_vae.distributions.normal import Normal
from flax_vae.models.posteriors import DiagonalNormal, conditionals
from flax_vae.nn.bijectors import Couplings
from flax_vae.nn.bound_functions import as_value
from flax_vae.nn.layers import ImageShape
from flax_vae.parts import LayerCount, Parts
from flax_vae.system.memory import require_memory

PRIORS = Parts("prior", supplied=("latent_dim", "image_shape", "images", "conditional"))


class StandardNormal(nn.Module):
    """Prior p(z) = N(0, I)."""

    latent_dim: int

    def __call__(self) -> Normal:
        """Normal with event shape "d"."""
        zeros = jnp.zeros(self.latent_dim)
        return Normal(zeros, zeros)


@PRIORS.register("normal")
def normal(latent_dim: int, conditional: bool = False) -> "StandardNormal | ConditionalNormal":
    """N(0, I), or in a conditional model a normal whose mean and scale are learned for each context."""
    return ConditionalNormal(latent_dim) if conditional else StandardNormal(latent_dim)


@PRIORS.register("mixture", tables=("loc", "log_scale"))
class LearnedMixture(nn.Module):
    """p(z) = Σ_m softmax(logits)_m N(z; loc_m, exp(log_scale_m)²), all of it learned with the model.

    Starts with equal weights, scales of 1 and locations drawn from N(0, I): close to N(0, 2I), with every component its
    own.
    """

    latent_dim: int
    components: int = 50

    @nn.compact
    def __call__(self) -> Mixture:
        """Mixture with event shape "d"."""
        shape = (self.components, self.latent_dim)
        logits = self.param("logits", nn.initializers.zeros, (self.components,))
        loc = self.param("loc", nn.initializers.normal(1.0), shape)
        log_scale = self.param("log_scale", nn.initializers.zeros, shape)
        return Mixture(logits, Normal(loc, jnp.clip(log_scale, -MAX_LOG_SCALE, MAX_LOG_SCALE)))


@PRIORS.register("vamp", tables=("pseudo_inputs",))
def vamp(image_shape: ImageShape, images: StoredImages | None = None, components: int = 128) -> "VampPrior":
    """The mean of the model's own posteriors at learned images (VampPrior, Tomczak & Welling 2018)."""
    if images is None:
        return VampPrior(image_shape, components=components)
    size = components * (8 + math.prod(image_shape))  # which image, and its pixels
    require_memory(size, f"--prior vamp(components={components})", "learn fewer pseudo-inputs")
    chosen = np.random.default_rng(0).choice(len(images), components)
    return VampPrior(image_shape, images[chosen].tobytes(), components)


class VampPrior(nn.Module):
    """Prior p(z) = 1/m Σ_m q(z | u_m), with the model's own posterior at learned images u (Tomczak & Welling 2018).

    Each step encodes the pseudo-inputs u beside its batch.

    Attributes:
        image_shape: "h w c" of the pseudo-inputs.
        start: the images that they start as, "m h w c" as the bytes of a uint8 array: a module has to be hashable.
        components: m.
    """

    image_shape: ImageShape
    start: bytes = b""
    components: int = 128
    encodes_each_step: ClassVar[bool] = True

    @nn.compact
    def __call__(self) -> Mixture:
        """Mixture with event shape "d"."""
        logits = self.param("pseudo_inputs", self._start, (self.components, *self.image_shape))
        return Mixture(jnp.zeros(self.components), _model(self).encode(nn.sigmoid(logits)))

    def _start(self, key: Array, shape: tuple[int, ...]) -> Float[Array, "m h w c"]:
        if not self.start:  # a model whose parameters are to be loaded
            return jnp.zeros(shape)
        # Away from 0 and 1, where the sigmoid would learn nothing.
        return logit(jnp.asarray(np.frombuffer(self.start, np.uint8).reshape(shape) / np.float32(255)).clip(0.02, 0.98))


@PRIORS.register("flow")
class CouplingFlow(nn.Module):
    """z = f(ε) with ε ~ N(0, I) and affine couplings f (Dinh et al. 2017). Starts as N(0, I)."""

    latent_dim: int
    layers: LayerCount = 4
    hidden: int = 64

    @nn.compact
    def __call__(self) -> Flow:
        """Flow with event shape "d"."""
        zeros = jnp.zeros(self.latent_dim)
        couplings = Couplings(self.latent_dim, self.layers, self.hidden)
        couplings(zeros)  # creates the parameters
        return Flow(Normal(zeros, zeros), as_value(couplings), as_value(couplings, method="inverse"))


class ConditionalNormal(nn.Module):
    """Prior p(z | c) = N(mean(c), diag exp(log_var(c))) of a conditional model, with one hidden layer on its context c.

    Starts near N(0, I).
    """

    latent_dim: int
    hidden: int = 64

    @nn.compact
    def __call__(self) -> Normal:
        """Normal with batch shape "b" and event shape "d"."""
        h = nn.silu(nn.Dense(self.hidden)(_model(self).context()))
        return DiagonalNormal(self.latent_dim, log_var=0.0)(h)


class TopDownPrior(nn.Module):
    """Prior Π_l p(z_l | z_<l) of layers of latents, top first (Sønderby et al. 2016).

    Attributes:
        top: prior of the top layer.
        latent_dims: size of each layer, that of the top first.
        hidden: features between what is above and each layer below it.
    """

    top: nn.Module
    latent_dims: tuple[int, ...]
    hidden: int = 300

    @property
    def encodes_each_step(self) -> bool:
        """As the top layer's prior says."""
        return getattr(self.top, "encodes_each_step", False)

    @nn.compact
    def __call__(self) -> Chain:
        """Chain with event shape "d", all layers side by side."""
        below = conditionals(self.latent_dims, self.hidden, log_var=0.0)  # starts near N(0, I), as the top does
        return Chain(self.top(), below, self.latent_dims)

    def encode(self, x: Float[Array, "b h w c"]) -> Any:
        """q(z_1 | x), which a `VampPrior` on top is made of."""
        return _model(self).encode(x).top

    def context(self) -> Array | None:
        """What a `ConditionalNormal` on top is given."""
        return _model(self).context()


def _model(prior: nn.Module) -> Any:
    """What the prior is a part of."""
    if prior.parent is None:  # Linen's modules know their parents by weak references
        raise RuntimeError("this prior needs its model: keep it, as in model = bind(vae, params); model.prior()")
    return prior.parent
