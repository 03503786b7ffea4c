"""The latents of a stochastic layer on the stack, under its prior and under its posterior.

A latent is coded in units of its prior, as the noise that becomes it: whole steps of it, with the density of N(0, I).
Of a flow that is the noise that flows. Of a mixture, which has no such noise, it is in units of the whole mixture's
mean and deviation, and the component is one more latent, whose exact posterior is at hand.

A posterior that is normal in these units is coded as that. One that is not, a flow or under one, is coded by local
bits-back coding (Ho et al. 2019): see `Warped`.
"""

from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flax_vae.compress import stack as stacks
from flax_vae.compress.stack import STEP, Stack
from flax_vae.distributions import Flow, FromNoise, LatentDistribution, Mixture, MultivariateNormal, Normal
from flax_vae.system.errors import UserError

_WEIGHTS = 2**20  # probabilities are rounded to this part of one
Values = Int[np.ndarray, "_b ..."]  # of the latents of a block, in steps


class Normals(NamedTuple):
    """Normals in units of a prior: of vectors N(loc, L Lᵀ) with scale L; of maps, all latents by themselves."""

    loc: Float[Array, "b d"] | Float[Array, "b h w c"]
    scale: Float[Array, "b d d"] | Float[Array, "b h w c"]


class Warped(NamedTuple):
    """A posterior that is a smooth function h of noise, in units of its prior: u = h(ε).

    Values on a grid of u have none on a grid of ε. So u is h(ε) and a little noise, a normal of scale σ. Popping u pops
    ε under N(0, I), then u under N(h(ε), σ²), and pushes ε under what it is given u: N(h⁻¹(u), σ² G Gᵀ) with the
    Jacobian G of h⁻¹. What is coded is the posterior, up to σ and to how much h bends within it (Ho et al. 2019).
    """

    posterior: LatentDistribution
    prior: LatentDistribution


class Units(NamedTuple):
    """What a distribution makes of noise, and back."""

    place: Callable[[Array], Array]
    measure: Callable[[Array], Array]


@singledispatch
def units(p: Any) -> Units:
    """Latents of this distribution as noise."""
    raise UserError(f"Latents of a {type(p).__name__} cannot be compressed.")


@units.register
def _of_normal(p: Normal) -> Units:
    return Units(p.from_noise, lambda z: (z - p.loc) * jnp.exp(-p.log_scale))


@units.register
def _of_correlated(p: MultivariateNormal) -> Units:
    return Units(p.from_noise, p.to_noise)


@units.register
def _of_flow(p: Flow) -> Units:
    base = units(p.base)
    return Units(p.from_noise, lambda z: base.measure(p.inverse(z)[0]))


@units.register
def _of_mixture(p: Mixture) -> Units:
    weights, (loc, columns) = jax.nn.softmax(p.logits), _linear(p.components.from_noise, _centre(p.components))
    mean = weights @ loc
    variance = weights @ ((columns**2).sum(-1) + (loc - mean) ** 2)
    return units(Normal(mean, 0.5 * jnp.log(variance)))


def _centre(p: FromNoise) -> Float[Array, "*b n"]:
    """Noise of zeros."""
    return jnp.zeros((*p.mean().shape[:-1], *p.noise_shape))


def _linear(
    function: Callable[[Array], Array], at: Float[Array, "*b d"]
) -> tuple[Float[Array, "*b d"], Float[Array, "*b d d"]]:
    """A function of vectors at a point, and its Jacobian there."""

    def along(direction: Float[Array, " d"]) -> Float[Array, "*b d"]:
        return jax.jvp(function, (at,), (jnp.broadcast_to(direction, at.shape),))[1]

    return function(at), jnp.moveaxis(jax.vmap(along)(jnp.eye(at.shape[-1])), 0, -1)


def in_units(posterior: Any, prior: Any) -> "Normals | Warped":
    """A posterior in units of its prior."""
    if isinstance(posterior, Flow) or isinstance(prior, Flow):
        return Warped(posterior, prior)
    measure = units(prior).measure
    if len(posterior.noise_shape) > 1:  # maps, whose latents are independent
        loc = measure(posterior.from_noise(jnp.zeros(())))
        return Normals(loc[0], (measure(posterior.from_noise(jnp.ones(()))) - loc)[0])
    return _normals(*_linear(lambda noise: measure(posterior.from_noise(noise)), _centre(posterior)))


def _normals(loc: Float[Array, "*b d"], columns: Float[Array, "*b d d"]) -> Normals:
    """Normals of vectors whose covariance is A Aᵀ."""
    size = loc.shape[-1]
    columns = columns.reshape(-1, size, size)
    # Far below a step, and enough for L to be positive.
    covariance = columns @ columns.mT + (STEP / 64) ** 2 * jnp.eye(size)
    return Normals(loc.reshape(-1, size), jnp.linalg.cholesky(covariance))


@jax.jit
def place(prior: LatentDistribution, values: Int[Array, "..."], like: Float[Array, "1 b ..."]) -> Array:
    """The latents at these values of noise, in steps; in the shape of `like`."""
    return jnp.broadcast_to(units(prior).place(values * STEP), like.shape)


@singledispatch
def push_posterior(posterior: Any, stack: Stack, values: Values, count: int) -> None:
    """Give the bits back that `pop_posterior` took."""
    push = stacks.push_vectors if values.ndim == 2 else stacks.push_normals
    push(stack, values[:count], *_first(posterior, count))


@singledispatch
def pop_posterior(posterior: Any, stack: Stack, shape: tuple[int, ...], count: int) -> Values:
    """Draw latents by bits of the stack, those of the first `count` images of a block; the others are 0."""
    pop = stacks.pop_vectors if len(shape) == 2 else stacks.pop_normals
    return _block(pop(stack, *_first(posterior, count)), shape)


@push_posterior.register
def _push_warped(posterior: Warped, stack: Stack, values: Values, count: int) -> None:
    near, tril = _first(_noise_near(posterior, values), count)
    noise = _block(stacks.pop_vectors(stack, near, tril, everywhere=True), values.shape)
    loc = _first(_bend(posterior, noise), count)
    stacks.push_normals(stack, values[:count], loc, np.full(loc.shape, STEP), everywhere=True)
    _push_standard(stack, noise, count)


@pop_posterior.register
def _pop_warped(posterior: Warped, stack: Stack, shape: tuple[int, ...], count: int) -> Values:
    noise = _pop_standard(stack, shape, count)
    loc = _first(_bend(posterior, noise), count)
    values = _block(stacks.pop_normals(stack, loc, np.full(loc.shape, STEP), everywhere=True), shape)
    near, tril = _first(_noise_near(posterior, values), count)
    stacks.push_vectors(stack, noise[:count], near, tril, everywhere=True)
    return values


@jax.jit
def _bend(posterior: Warped, noise: Int[Array, "b d"]) -> Float[Array, "b d"]:
    """h(ε)."""
    z = units(posterior.posterior).place(noise * STEP)
    return units(posterior.prior).measure(z).reshape(noise.shape)


@jax.jit
def _noise_near(posterior: Warped, values: Int[Array, "b d"]) -> Normals:
    """What ε is, given u: N(h⁻¹(u), σ² G Gᵀ)."""

    def straighten(u: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return units(posterior.posterior).measure(units(posterior.prior).place(u)).reshape(values.shape)

    noise, columns = _linear(straighten, values * STEP)
    return _normals(noise, columns * STEP)


@singledispatch
def push_prior(prior: Any, stack: Stack, values: Values, count: int) -> None:
    """Push the first latents of a block under their prior: N(0, I) in its units."""
    _push_standard(stack, values, count)


@singledispatch
def pop_prior(prior: Any, stack: Stack, shape: tuple[int, ...], count: int) -> Values:
    """Pop what `push_prior` pushed, for a block of this shape."""
    return _pop_standard(stack, shape, count)


@push_prior.register
def _push_mixture(prior: Mixture, stack: Stack, values: Values, count: int) -> None:
    components, weights = _components(prior)
    which = stacks.pop_choices(stack, _weights(_first(_responsibilities(prior, values), count)))
    loc, tril = _first(components, which)
    stacks.push_vectors(stack, values[:count], loc, tril, everywhere=True)
    stacks.push_choices(stack, which, _weights(np.tile(weights, (count, 1))))


@pop_prior.register
def _pop_mixture(prior: Mixture, stack: Stack, shape: tuple[int, ...], count: int) -> Values:
    components, weights = _components(prior)
    which = stacks.pop_choices(stack, _weights(np.tile(weights, (count, 1))))
    loc, tril = _first(components, which)
    values = _block(stacks.pop_vectors(stack, loc, tril, everywhere=True), shape)
    stacks.push_choices(stack, which, _weights(_first(_responsibilities(prior, values), count)))
    return values


@jax.jit
def _components(prior: Mixture) -> tuple[Normals, Float[Array, " m"]]:
    """The components, and their weights."""
    measure = units(prior).measure
    loc, columns = _linear(lambda noise: measure(prior.components.from_noise(noise)), _centre(prior.components))
    return _normals(loc, columns), jax.nn.softmax(prior.logits)


@jax.jit
def _responsibilities(prior: Mixture, values: Int[Array, "b d"]) -> Float[Array, "b m"]:
    """p(m | z) of each component m."""
    components, _ = _components(prior)
    log_probs = MultivariateNormal(*components).log_prob(STEP * values[:, None])
    return jax.nn.softmax(log_probs + jax.nn.log_softmax(prior.logits))


def _push_standard(stack: Stack, values: Values, count: int) -> None:
    zeros = np.zeros(values[:count].shape)
    stacks.push_normals(stack, values[:count], zeros, zeros + 1, everywhere=True)


def _pop_standard(stack: Stack, shape: tuple[int, ...], count: int) -> Values:
    zeros = np.zeros((count, *shape[1:]))
    return _block(stacks.pop_normals(stack, zeros, zeros + 1, everywhere=True), shape)


def _first(tree: Any, which: Any) -> Any:
    """The rows of some images of a block, on the host."""
    rows = which if isinstance(which, np.ndarray) else slice(which)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def _weights(probabilities: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Probabilities as whole numbers, each at least 1."""
    return np.floor(probabilities * _WEIGHTS) + 1


def _block(values: Values, shape: tuple[int, ...]) -> Values:
    return np.concatenate([values, np.zeros((shape[0] - len(values), *shape[1:]), values.dtype)])
