"""Invertible Linen modules: ε -> z, and back with log |det ∂ε/∂z|."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_vae.nn.module import Module

ValueAndLogDet = tuple[Float[Array, "... d"], Float[Array, "..."]]


class Couplings(Module):
    """Affine couplings (Dinh et al. 2017): each layer scales and shifts every second dimension.

        z_A = ε_A,  z_B = ε_B · exp(s(ε_A)) + t(ε_A)

    s and t come from a dense network of A; A and B swap between layers. Starts as the identity.
    """

    latent_dim: int
    layers: int
    hidden: int

    def setup(self) -> None:
        """Create one network per layer."""
        zeros = nn.initializers.zeros
        self.networks = [
            nn.Sequential([nn.Dense(self.hidden), nn.silu, nn.Dense(self.hidden), nn.silu,
                           nn.Dense(2 * self.latent_dim, kernel_init=zeros)])
            for _ in range(self.layers)
        ]  # fmt: skip

    def __call__(self, x: Float[Array, "... d"]) -> ValueAndLogDet:
        """Map ε to z and log |det ∂z/∂ε|."""
        log_determinant = jnp.zeros(x.shape[:-1])
        for layer in range(self.layers):
            log_scale, shift = self._coupling(layer, x)
            x = x * jnp.exp(log_scale) + shift
            log_determinant += log_scale.sum(-1)
        return x, log_determinant

    def inverse(self, x: Float[Array, "... d"]) -> ValueAndLogDet:
        """Map z to ε and log |det ∂ε/∂z|."""
        log_determinant = jnp.zeros(x.shape[:-1])
        for layer in reversed(range(self.layers)):
            log_scale, shift = self._coupling(layer, x)
            x = (x - shift) * jnp.exp(-log_scale)
            log_determinant -= log_scale.sum(-1)
        return x, log_determinant

    def _coupling(self, layer: int, x: Float[Array, "... d"]) -> tuple[Float[Array, "... d"], Float[Array, "... d"]]:
        """Return log-scale and shift, which are 0 for the unchanged dimensions."""
        changed = (jnp.arange(self.latent_dim) + layer) % 2
        log_scale, shift = _bounded_affine(self.networks[layer](x * (1 - changed)))
        return log_scale * changed, shift * changed


def _bounded_affine(output: Float[Array, "... d2"]) -> tuple[Float[Array, "... d"], Float[Array, "... d"]]:
    """Split a network's output into a log-scale, soft-clipped to ±2, and a shift.

    The bound ensures that no single layer can destroy the precision of its input.
    """
    log_scale, shift = jnp.split(output, 2, axis=-1)
    return 2 * jnp.tanh(log_scale / 2), shift


class Autoregressive(Module):
    """Inverse autoregressive flow (Kingma et al. 2016): each layer transforms a dimension given the previous ones.

        z_i = ε_i · exp(s_i(ε_<i, h)) + t_i(ε_<i, h)

    s and t come from one masked network (Germain et al. 2015); the order of dimensions is reversed between layers. The
    forward map takes one pass, the inverse one pass per dimension. Starts as the identity.
    """

    latent_dim: int
    layers: int
    hidden: int

    @nn.compact
    def _layers(self, h: Float[Array, "*b f"]) -> list[Callable[[Array], tuple[Array, Array]]]:
        """Return each layer as a function from its input to log-scale and shift."""
        numbers = jnp.arange(self.latent_dim)
        degrees = jnp.arange(self.hidden) % max(self.latent_dim - 1, 1)  # a unit sees the dimensions up to its degree
        mask_in, mask_out = numbers[:, None] <= degrees, jnp.tile(degrees[:, None] < numbers, 2)
        lecun, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros

        def layer(number: int) -> Callable[[Array], tuple[Array, Array]]:
            conditioning = nn.Dense(self.hidden, name=f"given_{number}")(h)
            into = self.param(f"into_{number}", lecun, mask_in.shape) * mask_in
            out = self.param(f"out_{number}", zeros, mask_out.shape) * mask_out
            bias = self.param(f"bias_{number}", zeros, (2 * self.latent_dim,))
            return lambda x: _bounded_affine(nn.silu(x @ into + conditioning) @ out + bias)

        return [layer(number) for number in range(self.layers)]

    def __call__(self, x: Float[Array, "... d"], h: Float[Array, "*b f"]) -> ValueAndLogDet:
        """Map ε to z and log |det ∂z/∂ε|, given features h of an image."""
        log_determinant = jnp.zeros(jnp.broadcast_shapes(x.shape[:-1], h.shape[:-1]))
        for layer in self._layers(h):
            log_scale, shift = layer(x)
            x = (x * jnp.exp(log_scale) + shift)[..., ::-1]
            log_determinant += log_scale.sum(-1)
        return x, log_determinant

    def inverse(self, z: Float[Array, "... d"], h: Float[Array, "*b f"]) -> ValueAndLogDet:
        """Map z to ε and log |det ∂ε/∂z|, given features h of an image."""
        z = jnp.broadcast_to(z, jnp.broadcast_shapes(z.shape, (*h.shape[:-1], 1)))
        log_determinant = jnp.zeros(z.shape[:-1])
        for layer in reversed(self._layers(h)):
            z = z[..., ::-1]

            def solve(x: Array, i: Array, z: Array = z, layer: Any = layer) -> tuple[Array, None]:
                """Solve for dimension i, with all previous ones solved."""
                log_scale, shift = layer(x)
                return jnp.where(jnp.arange(self.latent_dim) == i, (z - shift) * jnp.exp(-log_scale), x), None

            z, _ = jax.lax.scan(solve, jnp.zeros_like(z), jnp.arange(self.latent_dim))
            log_determinant -= layer(z)[0].sum(-1)
        return z, log_determinant
