"""A flat VAE: networks and distributions, combined into one Linen module."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.batches import X, are_views
from flax_vae.distributions.base import Distribution, Draw, LatentDistribution
from flax_vae.distributions.masked import masked
from flax_vae.distributions.views import Views
from flax_vae.models.binding import with_context
from flax_vae.models.checks import (
    freeze_networks,
    refuse_other_output,
    refuse_other_parts,
    require_array,
    require_one_array,
    require_views,
)
from flax_vae.models.layerwise import draw_prior, pair_with_priors
from flax_vae.models.likelihoods import with_event_ndim
from flax_vae.models.likelihoods.bernoulli import BernoulliLikelihood
from flax_vae.models.protocol import Inference, RandomKey, Temperature
from flax_vae.nn.module import Module
from flax_vae.pytrees import map_views


class VAE(Module):
    """A variational autoencoder (Kingma & Welling 2014): p(x, z) = p(z) p(x | z) with its posterior q(z | x).

    Every part is a value, and may be replaced by another with the same inputs and outputs:

    Attributes:
        encoder: Linen module, x, such as images "b h w c" or vectors "b v" -> features "b f".
        posterior: Linen module, features "b f" -> q(z | x) with batch shape "b".
        prior: Linen module, () -> p(z).
        decoder: Linen module, latents "b d" -> the likelihood's input, such as logits "b h w c" or "b v".
        likelihood: a head or any function, the decoder's output -> p(x | z) with batch shape "b". A tuple or a
            dictionary of them makes a model of several views: the encoder takes all views, and the decoder returns an
            output for each.
        dtype: type that encoder and decoder compute in, e.g. "bfloat16". Parameters keep their own type; latents,
            densities and losses have the type of x.
    """

    encoder: nn.Module
    posterior: nn.Module
    prior: nn.Module
    decoder: nn.Module
    likelihood: Any = BernoulliLikelihood()
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Check the networks, and make them hashable."""
        freeze_networks(self, encoder=1, posterior=1, prior=0, decoder=1)
        refuse_other_parts(self)
        if isinstance(self.likelihood, Mapping):
            object.__setattr__(self, "likelihood", nn.FrozenDict(self.likelihood))
        super().__post_init__()

    def context(self) -> Float[Array, "b v"] | None:
        """Return the conditioning input of each image, such as its label; see `bind`."""
        return self.get_variable("context", "value")

    def mask(self) -> Any:
        """Return True for each observed value of x, False for missing ones; None if all are observed."""
        return self.get_variable("mask", "value")

    def features(self, x: X) -> Float[Array, "b f"]:
        """Return the posterior's input: the encoder's features, with the context if there is one."""
        x = require_views("x", x, self.likelihood) if are_views(self.likelihood) else require_one_array(x, self)
        features = self.encoder(jax.tree.map(lambda view: view.astype(self.dtype), x))
        features = require_array(features, 2, '"b f", features of each image', "encoder")
        return with_context(features.astype(jnp.result_type(*jax.tree.leaves(x))), self.context())

    def encode(self, x: X) -> LatentDistribution:
        """Return q(z | x), batch shape "b"."""
        return self.posterior(self.features(x))

    def decode(self, z: Float[Array, "*k b d"]) -> Distribution:
        """Return p(x | z), batch shape "*k b"; leading axes are flattened for the networks."""
        return self._likelihood(self._decoder_output(z), z.ndim - 1)

    def _decoder_output(self, z: Float[Array, "*k b d"]) -> X:
        z = with_context(z, self.context())
        outputs = self.decoder(z.reshape(-1, z.shape[-1]).astype(self.dtype))
        if are_views(self.likelihood):
            require_views("The decoder's output", outputs, self.likelihood)

        def unflatten(head: Any, output: Any) -> Array:
            output = require_array(output, None, '"b ..." of the shape of x', "decoder").astype(z.dtype)
            return output.reshape(z.shape[:-1] + output.shape[1:])

        return map_views(unflatten, self.likelihood, outputs if are_views(self.likelihood) else {"": outputs})

    def _likelihood(self, outputs: X, batch_ndim: int) -> Any:
        def of_view(head: Any, output: Array) -> Any:
            return with_event_ndim(head(output), output.ndim - batch_ndim)

        likelihood = map_views(of_view, self.likelihood, outputs)
        return Views(likelihood) if are_views(likelihood) else likelihood

    def infer(self, x: X, key: RandomKey, num_samples: int = 1, temperature: Temperature = 1.0) -> Inference:
        """Draw `num_samples` latents per image by reparameterisation, and decode them.

        With a `temperature` the posterior's scale is multiplied by it, and the layers hold the tempered posterior.
        """
        return self._inference(x, self.encode(x).tempered(temperature).draw_layers(key, (num_samples,)))

    def infer_at(self, x: X, latents: tuple[Float[Array, "k b _l"], ...]) -> Inference:
        """Infer at given latents, one array per layer."""
        return self._inference(x, self.encode(x).layers_at(jnp.concatenate(latents, axis=-1)))

    def _inference(self, x: X, draws: list[Draw]) -> Inference:
        z, layers = pair_with_priors(draws, self.prior())
        outputs = self._decoder_output(z)

        def refuse(head: Any, output: Array, x: Array) -> None:
            refuse_other_output(head, output.shape[2:], x.shape[1:])

        map_views(refuse, self.likelihood, outputs, x)
        return Inference(layers, masked(self._likelihood(outputs, 2), self.mask()))

    def generate(self, key: RandomKey, num_samples: int, temperature: Temperature = 1.0) -> Distribution:
        """Return p(x | z) for `num_samples` draws z from the prior, with its scale times `temperature`."""
        return self.decode(draw_prior(self, key, num_samples, temperature))

    def __call__(self, x: X, key: RandomKey) -> Inference:
        """Run `infer`, which calls every part, as initialisation needs."""
        return self.infer(x, key)
