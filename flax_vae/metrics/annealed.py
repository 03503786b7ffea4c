"""Annealed importance sampling: log p(x) where the posterior is too far off for its own draws."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flax_vae.batches import Batch, as_one, batch_size_of, unpack
from flax_vae.metrics.likelihood import log_mean, refuse_one_sample
from flax_vae.models.binding import Params, bind
from flax_vae.objectives.terms import log_posterior, log_weights

_LEAPFROGS = 10  # of a move
_ACCEPTED, _ADAPTION = 0.65, 1.05  # the share of moves to accept, and by what the step's length changes to get there
_FIRST_STEP = 0.3  # in units of the posterior's standard deviations
Latents = tuple[Float[Array, "k 1 ..."], ...]  # one array for each layer, the top first


class _Chains(NamedTuple):
    latents: Latents
    log_w: Float[Array, " k"]
    step: Float[Array, ""]
    key: Key[Array, ""]


@partial(jax.jit, static_argnums=(0, 4, 5))
def annealed_log_likelihood(
    vae: nn.Module,
    params: Params,
    images: Batch,
    key: Key[Array, ""],
    num_samples: int = 16,
    num_steps: int = 200,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """log p(x) of each image by annealed importance sampling, in nats, and its standard error (Neal 2001).

    Each chain starts at a draw from q(z | x) and moves through f_t(z) = q(z | x)^(1-β_t) p(x, z)^β_t, β from 0 to 1:

        log p(x) ~ log 1/K Σ_k w_k  with  log w_k = Σ_t (β_t - β_{t-1}) (log p(x, z_{t-1}) - log q(z_{t-1} | x))

    With one step it is the importance-weighted bound; with more, a chain finds what q misses. In expectation it lies
    below log p(x) too. A move is one of Hamiltonian Monte Carlo (Neal 2011), in units of the spread of q's draws. A
    first pass with chains of its own finds the length of its steps: they do not depend on the chains that count.

    Args:
        vae: a model that infers at given latents, `infer_at`, which all of this package's do.
        images: uint8, or floats in [0, 1].
        num_samples: chains K per image, at least two.
        num_steps: distributions between q and the posterior; the cost of each is 11 gradients of the model.
    """
    refuse_one_sample(num_samples)
    # Most of the way is where the two ends meet: equal steps of a sigmoid's argument (Wu et al. 2017).
    rising = jax.nn.sigmoid(jnp.linspace(-4, 4, num_steps + 1))
    betas = (rising - rising[0]) / (rising[-1] - rising[0])

    def one_image(image_and_key: tuple[Any, Array]) -> tuple[Array, Array]:
        (x, context), key = as_one(image_and_key[0]), image_and_key[1]
        model = bind(vae, params, context)
        units_key, pilot_key, key = jax.random.split(key, 3)
        units = tuple(layer.z.std(0) for layer in model.infer(x, units_key, 64).layers)

        def density(latents: Latents, beta: Array) -> tuple[Array, Array]:
            """log f and, beside it, the logarithm of the weight p(x, z) / q(z | x), of each chain."""
            inference = model.infer_at(x, latents)
            log_ratio = log_weights(inference, x)[:, 0]
            return log_posterior(inference)[:, 0] + beta * log_ratio, log_ratio

        def anneal(key: Array, steps: Float[Array, " t"] | None) -> tuple[Array, Array]:
            """log w of each chain, and the length of each step: as given, or so that enough moves are accepted."""
            start_key, key = jax.random.split(key)
            drawn = tuple(layer.z for layer in model.infer(x, start_key, num_samples).layers)

            def to_next(chains: _Chains, at: tuple[Array, Array, Array, Array]) -> tuple[_Chains, Array]:
                number, before, beta, given = at
                log_w = chains.log_w + (beta - before) * density(chains.latents, beta)[1]
                step = chains.step if steps is None else given
                key = jax.random.fold_in(chains.key, number)
                latents, accepted = _move(lambda z: density(z, beta)[0], chains.latents, units, step, key)
                longer = jnp.where(accepted.mean() > _ACCEPTED, _ADAPTION, 1 / _ADAPTION)
                return _Chains(latents, log_w, step * longer, chains.key), step

            start = _Chains(drawn, jnp.zeros(num_samples), jnp.asarray(_FIRST_STEP), key)
            given = jnp.zeros(num_steps) if steps is None else steps
            chains, used = jax.lax.scan(to_next, start, (jnp.arange(num_steps), betas[:-1], betas[1:], given))
            return chains.log_w, used

        log_w, _ = anneal(key, anneal(pilot_key, None)[1])
        return log_mean(log_w)

    return jax.lax.map(one_image, (unpack(images), jax.random.split(key, batch_size_of(images))))


def _move(
    log_density: Any, latents: Latents, units: tuple[Float[Array, "1 ..."], ...], step: Array, key: Key[Array, ""]
) -> tuple[Latents, Float[Array, " k"]]:
    """One move of Hamiltonian Monte Carlo for each chain, and whether it was accepted."""
    momentum_key, key = jax.random.split(key)
    keys = jax.random.split(momentum_key, len(latents))
    momenta = tuple(jax.random.normal(key, z.shape) for key, z in zip(keys, latents, strict=True))

    def gradient(z: Latents) -> Latents:
        return jax.grad(lambda z: log_density(z).sum())(z)

    def kick(momenta: Latents, z: Latents, length: Array) -> Latents:
        return tuple(p + length * unit * g for p, unit, g in zip(momenta, units, gradient(z), strict=True))

    def drift(z: Latents, momenta: Latents) -> Latents:
        return tuple(z_l + step * unit * p for z_l, unit, p in zip(z, units, momenta, strict=True))

    def leap(_: Any, state: tuple[Latents, Latents]) -> tuple[Latents, Latents]:
        z, momenta = state
        z = drift(z, momenta)
        return z, kick(momenta, z, step)

    start = latents, kick(momenta, latents, step / 2)
    moved, after = jax.lax.fori_loop(0, _LEAPFROGS - 1, leap, start)
    moved = drift(moved, after)
    after = kick(after, moved, step / 2)

    def energy(z: Latents, momenta: Latents) -> Array:
        kinetic = sum((0.5 * (p**2).reshape(len(p), -1).sum(-1) for p in momenta), start=jnp.zeros(()))
        return kinetic - log_density(z)

    change = energy(moved, after) - energy(latents, momenta)
    accepted = jnp.log(jax.random.uniform(key, change.shape)) < -change  # never where the way led to NaN

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(accepted.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(choose, moved, latents), accepted.astype(jnp.float32)
