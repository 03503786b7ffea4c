"""A model of the user's own, of an image and a vector of counts, for tests of x that is not one array."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flax_vae import Bernoulli, BernoulliLikelihood, Normal, PoissonLikelihood
from flax_vae.distributions.counts import Poisson
from flax_vae.distributions.masked import masked
from flax_vae.models.layerwise import draw_prior
from flax_vae.models.protocol import Inference, Layer
from flax_vae.pytrees import pytree

SHAPES = {"image": (3, 2, 1), "counts": (5,)}


@pytree
class Views:
    """Independent views given z."""

    image: Any
    counts: Any

    def log_prob(self, x: dict[str, jax.Array]) -> jax.Array:
        return self.image.log_prob(x["image"]) + self.counts.log_prob(x["counts"])

    def mean(self) -> dict[str, jax.Array]:
        return {"image": self.image.mean(), "counts": self.counts.mean()}

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> dict[str, jax.Array]:
        image_key, counts_key = jax.random.split(key)
        image, counts = self.image.sample(image_key, sample_shape), self.counts.sample(counts_key, sample_shape)
        return {"image": image, "counts": counts}


class TwoViews(nn.Module):
    """z ~ N(0, I) with two dimensions; binary pixels and counts given z.

    Its `likelihood` declares the support of each view.
    """

    likelihood = {"image": BernoulliLikelihood(), "counts": PoissonLikelihood()}  # noqa: RUF012

    def setup(self) -> None:
        self.encoder, self.decoder = nn.Dense(4), nn.Dense(11)

    def mask(self) -> dict[str, jax.Array] | None:
        return self.get_variable("mask", "value")

    def prior(self) -> Normal:
        return Normal(jnp.zeros(2), jnp.zeros(2))

    def encode(self, x: dict[str, jax.Array]) -> Normal:
        flat = jnp.concatenate([x["image"].reshape(x["image"].shape[0], -1), jnp.log1p(x["counts"])], axis=-1)
        return Normal(*jnp.split(self.encoder(flat), 2, axis=-1))

    def decode(self, z: jax.Array) -> Views:
        image, counts = jnp.split(self.decoder(z), [6], axis=-1)
        return Views(Bernoulli(image.reshape(*image.shape[:-1], 3, 2, 1)), Poisson(counts))

    def _inference(self, draws: list[tuple[jax.Array, jax.Array, Normal]]) -> Inference:
        ((z, log_q, posterior),) = draws
        likelihood, mask = self.decode(z), self.mask()
        if mask is not None:
            parts = masked(likelihood.image, mask["image"]), masked(likelihood.counts, mask["counts"])
            likelihood = Views(*parts)
        return Inference((Layer(z, log_q, posterior, self.prior()),), likelihood)

    def infer(self, x: Any, key: jax.Array, num_samples: int = 1, temperature: Any = 1.0) -> Inference:
        return self._inference(self.encode(x).tempered(temperature).draw_layers(key, (num_samples,)))

    def infer_at(self, x: Any, latents: tuple[jax.Array, ...]) -> Inference:
        return self._inference(self.encode(x).layers_at(latents[0]))

    def generate(self, key: jax.Array, num_samples: int, temperature: Any = 1.0) -> Views:
        return self.decode(draw_prior(self, key, num_samples, temperature))

    def __call__(self, x: Any, key: jax.Array) -> Inference:
        return self.infer(x, key)
