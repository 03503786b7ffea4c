"""Annealed importance sampling: log p(x) where importance sampling from the posterior fails."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flax_vae.batches import BatchLike, as_one, batch_size_of, unpack
from flax_vae.metrics.likelihood import log_mean_and_error, require_two_samples
from flax_vae.models.binding import Params, bind
from flax_vae.models.inputs import checked
from flax_vae.objectives.terms import log_posterior, log_weights

_LEAPFROG_STEPS = 10
_ACCEPTANCE_RATE = 0.65  # the target
_ADAPTION = 1.05  # factor by which the step size adapts
_FIRST_STEP_SIZE = 0.3  # in standard deviations of the posterior
Latents = tuple[Float[Array, "k ..."], ...]  # one array for each layer, the top first; k chains
Scales = tuple[Float[Array, "..."], ...]  # one array for each layer, which broadcasts against its latents
LogDensity = Callable[[Latents], Float[Array, " k"]]
_Chains = tuple[Latents, Float[Array, " k"], Float[Array, ""]]  # latents, log w, and the next step size
# Maps latents to log f(z) of each chain at an inverse temperature β, and the logarithms of p(x, z) / q(z | x).
Bridge = Callable[[Latents, Array], tuple[Float[Array, " k"], Float[Array, " k"]]]


@checked("images")
@partial(jax.jit, static_argnums=(0, 4, 5))
def annealed_log_likelihood(
    model: nn.Module,
    params: Params,
    images: BatchLike,
    key: Key[Array, ""],
    num_samples: int = 16,
    num_steps: int = 200,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Estimate log p(x) of each image by annealed importance sampling, in nats, with its standard error (Neal 2001).

    Each chain starts at a draw from q(z | x) and moves through f_t(z) = q(z | x)^(1-β_t) p(x, z)^β_t, β from 0 to 1:

        log p(x) ~ log 1/K Σ_k w_k  with  log w_k = Σ_t (β_t - β_{t-1}) (log p(x, z_{t-1}) - log q(z_{t-1} | x))

    With one step this is the importance-weighted bound; with more, chains find modes that q misses. The expectation is
    below log p(x) in both cases. Transitions are Hamiltonian Monte Carlo, scaled by the standard deviations of q's
    draws. A pilot run with separate chains tunes the step sizes, which therefore do not depend on the chains that
    count.

    Args:
        model: a model with `infer_at`, like all models of this package.
        params: its parameters.
        images: uint8, or floats in [0, 1].
        key: key of all draws.
        num_samples: chains K per image, at least two.
        num_steps: distributions between q and the posterior; each costs 11 gradients of the model.
    """
    require_two_samples(num_samples)

    def one_image(image_and_key: tuple[Any, Array]) -> tuple[Array, Array]:
        (x, *given), key = as_one(image_and_key[0]), image_and_key[1]
        bound = bind(model, params, *given)
        units_key, pilot_key, key = jax.random.split(key, 3)
        units = tuple(layer.z.std(0) for layer in bound.infer(x, units_key, 64).layers)

        def bridge(latents: Latents, beta: Array) -> tuple[Array, Array]:
            inference = bound.infer_at(x, latents)
            log_ratio = log_weights(inference, x)[:, 0]
            return log_posterior(inference)[:, 0] + beta * log_ratio, log_ratio

        def run(key: Array, step_sizes: Array | None) -> tuple[Array, Array]:
            start_key, key = jax.random.split(key)
            start = tuple(layer.z for layer in bound.infer(x, start_key, num_samples).layers)
            return _anneal(bridge, start, units, num_steps, key, step_sizes)

        _, step_sizes = run(pilot_key, None)
        log_w, _ = run(key, step_sizes)
        return log_mean_and_error(log_w)

    return jax.lax.map(one_image, (unpack(images, model), jax.random.split(key, batch_size_of(images))))


def _anneal(
    bridge: Bridge,
    start: Latents,
    units: Scales,
    num_steps: int,
    key: Key[Array, ""],
    step_sizes: Float[Array, " t"] | None,
) -> tuple[Float[Array, " k"], Float[Array, " t"]]:
    """Anneal chains from the posterior to the joint density.

    Args:
        bridge: the densities in between.
        start: draws from the posterior.
        units: scales of the latents.
        num_steps: number of steps.
        key: key of the moves.
        step_sizes: the step size of each step; None to adapt it to the acceptance rate.

    Returns:
        log w of each chain, and the step sizes.
    """
    betas = _schedule(num_steps)

    def advance(chains: _Chains, step: tuple[Array, Array, Array, Array]) -> tuple[_Chains, Array]:
        (latents, log_w, adapted_step_size), (number, previous_beta, beta, fixed_step_size) = chains, step
        log_w += (beta - previous_beta) * bridge(latents, beta)[1]
        step_size = adapted_step_size if step_sizes is None else fixed_step_size
        move_key = jax.random.fold_in(key, number)
        latents, accepted = _hmc_move(lambda z: bridge(z, beta)[0], latents, units, step_size, move_key)
        factor = jnp.where(accepted.mean() > _ACCEPTANCE_RATE, _ADAPTION, 1 / _ADAPTION)
        return (latents, log_w, step_size * factor), step_size

    first = (start, jnp.zeros(len(start[0])), jnp.asarray(_FIRST_STEP_SIZE))
    fixed = jnp.zeros(num_steps) if step_sizes is None else step_sizes
    (_, log_w, _), used = jax.lax.scan(advance, first, (jnp.arange(num_steps), betas[:-1], betas[1:], fixed))
    return log_w, used


def _schedule(num_steps: int) -> Float[Array, " t1"]:
    """Return a sigmoidal schedule of β from 0 to 1, finest at both ends (Wu et al. 2017)."""
    rising = jax.nn.sigmoid(jnp.linspace(-4, 4, num_steps + 1))
    return (rising - rising[0]) / (rising[-1] - rising[0])


def _hmc_move(
    log_density: LogDensity, latents: Latents, units: Scales, step_size: Float[Array, ""], key: Key[Array, ""]
) -> tuple[Latents, Float[Array, " k"]]:
    """Move each chain by Hamiltonian Monte Carlo (Neal 2011): ten leapfrog steps, accepted or rejected.

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

    gradient = jax.grad(lambda z: log_density(z).sum())

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
