"""One distribution over latents of each kind, at parameters where nothing is trivial."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_vae.distributions import Chain, Flow, Mixture, MultivariateNormal, Normal
from flax_vae.models import CouplingFlow, InverseAutoregressive


class InverseAutoregressiveFlow(nn.Module):
    """An inverse autoregressive flow at the features of two images."""

    latent_dim: int

    @nn.compact
    def __call__(self) -> Flow:
        return InverseAutoregressive(self.latent_dim, layers=2, hidden=8)(jnp.array([[0.3, -1.0], [2.0, 0.5]]))


def with_random_params(module: nn.Module) -> Any:
    """Return a module's distribution at random parameters; at its initial ones it would be the base."""
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0))
    return module.apply(jax.tree.map(lambda p: 0.5 * jnp.asarray(random.normal(size=p.shape), p.dtype), shapes))


def chain() -> Chain:
    """z_1 ~ N(0, I) in two dimensions; z_2 ~ N(the sum of z_1, e^½); z_3 ~ N(z_2 - 1, 0.5): jointly normal."""

    def second(above: jax.Array) -> Normal:
        mean = above.sum(-1, keepdims=True)
        return Normal(mean, jnp.full_like(mean, 0.5))

    def third(above: jax.Array) -> Normal:
        return Normal(above[..., 2:] - 1, jnp.full_like(above[..., 2:], jnp.log(0.5)))

    return Chain(Normal(jnp.zeros(2), jnp.zeros(2)), (second, third), (2, 1, 1))


FLOWS = {"coupling": lambda: CouplingFlow(3, layers=4, hidden=8), "iaf": lambda: InverseAutoregressiveFlow(3)}
LATENTS: dict[str, Callable[[], Any]] = {
    "normal": lambda: Normal(jnp.array([[0.3, -1.0]]), jnp.array([[0.5, -2.0]])),
    "full": lambda: MultivariateNormal(jnp.array([0.3, -1.0]), jnp.array([[0.5, 0.0], [3.0, 0.1]])),
    "mixture": lambda: Mixture(jnp.array([0.2, -1.0]), Normal(jnp.eye(2), -jnp.eye(2))),
    "coupling": lambda: with_random_params(FLOWS["coupling"]()),
    "iaf": lambda: with_random_params(FLOWS["iaf"]()),
    "chain": chain,
    "chain below a mixture": lambda: replace(chain(), top=LATENTS["mixture"]()),
}
