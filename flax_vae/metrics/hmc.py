"""Hamiltonian Monte Carlo (Neal 2011), for several chains of latents side by side."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

_LEAPFROG_STEPS = 10
Latents = tuple[Float[Array, "k ..."], ...]  # one array for each layer, the top first; k chains
Scales = tuple[Float[Array, "..."], ...]  # one array for each layer, which broadcasts against its latents
LogDensity = Callable[[Latents], Float[Array, " k"]]


def hmc_move(
    log_density: LogDensity, latents: Latents, units: Scales, step_size: Float[Array, ""], key: Key[Array, ""]
) -> tuple[Latents, Float[Array, " k"]]:
    """Move each chain by ten leapfrog steps, and accept or reject the proposal.

    Args:
        log_density: logarithm of the unnormalised density, of each chain.
        latents: current states of the chains.
        units: scales of the latents.
        step_size: length of a leapfrog step, in these units.
        key: key of the momenta and of the acceptances.

    Returns:
        The new states, and 1 for each accepted proposal, 0 for each rejected one.
    """
    momentum_key, key = jax.random.split(key)
    keys = jax.random.split(momentum_key, len(latents))
    momenta = tuple(jax.random.normal(key, z.shape) for key, z in zip(keys, latents, strict=True))
    proposal, proposal_momenta = _leapfrog(log_density, latents, momenta, units, step_size)
    change = _energy(log_density, proposal, proposal_momenta) - _energy(log_density, latents, momenta)
    accepted = jnp.log(jax.random.uniform(key, change.shape)) < -change  # False if the trajectory reached NaN

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(accepted.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, proposal, latents), accepted.astype(jnp.float32)


def _leapfrog(
    log_density: LogDensity, latents: Latents, momenta: Latents, units: Scales, step_size: Array
) -> tuple[Latents, Latents]:
    """Follow the Hamiltonian dynamics: half a step of the momenta, alternating whole steps, half a step."""

    def gradient(z: Latents) -> Latents:
        return jax.grad(lambda z: log_density(z).sum())(z)

    def kick(momenta: Latents, z: Latents, length: Array) -> Latents:
        return tuple(p + length * unit * g for p, unit, g in zip(momenta, units, gradient(z), strict=True))

    def drift(z: Latents, momenta: Latents) -> Latents:
        return tuple(z_l + step_size * unit * p for z_l, unit, p in zip(z, units, momenta, strict=True))

    def leap(_: Array, state: tuple[Latents, Latents]) -> tuple[Latents, Latents]:
        z, momenta = state
        z = drift(z, momenta)
        return z, kick(momenta, z, step_size)

    start = latents, kick(momenta, latents, step_size / 2)
    latents, momenta = jax.lax.fori_loop(0, _LEAPFROG_STEPS - 1, leap, start)
    latents = drift(latents, momenta)
    return latents, kick(momenta, latents, step_size / 2)


def _energy(log_density: LogDensity, latents: Latents, momenta: Latents) -> Float[Array, " k"]:
    kinetic = sum((0.5 * (p**2).reshape(len(p), -1).sum(-1) for p in momenta), start=jnp.zeros(()))
    return kinetic - log_density(latents)
