"""Code the latents of a stochastic layer under its prior and under its posterior.

A latent is coded in units of its prior: as the noise that the prior maps to it, rounded to whole steps, with the
density of N(0, I). For a flow that is its base noise. A mixture has no such noise: its latents are coded in units of
the mixture's mean and standard deviation, with the component as an additional latent whose exact posterior is known.

A posterior that is normal in these units is coded as a normal. Any other, a flow or a posterior under a flow, is coded
by local bits-back coding (Ho et al. 2019): see `Warped`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flax_vae.compression import stack as stacks
from flax_vae.compression.stack import RESOLUTION, STEP, Stack
from flax_vae.distributions import FromNoise, LatentDistribution, Mixture, MultivariateNormal, Normal
from flax_vae.system.errors import UserError

_AFFINE = (Normal, MultivariateNormal)  # these map noise to latents by an affine function
Values = Int[np.ndarray, "_b ..."]  # the latents of a block, in steps


class Normals(NamedTuple):
    """Normals in units of a prior: N(loc, L Lᵀ) with scale L for vectors; independent latents for maps."""

    loc: Float[Array, "b d"] | Float[Array, "b h w c"]
    scale: Float[Array, "b d d"] | Float[Array, "b h w c"]

    def push(self, stack: Stack, values: Values, count: int) -> None:
        """Push the latents of the first `count` images of a block: the stack regains the bits that drew them."""
        push = stacks.push_vectors if values.ndim == 2 else stacks.push_normals
        push(stack, values[:count], *_first(self, count))

    def pop(self, stack: Stack, shape: tuple[int, ...], count: int) -> Values:
        """Draw the latents of the first `count` images of a block with bits from the stack; the rest are 0."""
        pop = stacks.pop_vectors if len(shape) == 2 else stacks.pop_normals
        return _block(pop(stack, *_first(self, count)), shape)


class Warped(NamedTuple):
    """A posterior that is a smooth function h of noise, in units of its prior: u = h(ε).

    Values on a grid of u do not map to a grid of ε. So let u = h(ε) plus a little normal noise of scale σ. To pop u,
    pop ε under N(0, I), pop u under N(h(ε), σ²), and push ε under its posterior given u, N(h⁻¹(u), σ² G Gᵀ) with the
    Jacobian G of h⁻¹. This codes u under the posterior, up to σ and the curvature of h within σ (Ho et al. 2019).
    """

    posterior: FromNoise
    prior: FromNoise

    def push(self, stack: Stack, values: Values, count: int) -> None:
        """Push the latents of the first `count` images of a block: the stack regains the bits that drew them."""
        near, tril = _first(self._noise_near(values), count)
        noise = _block(stacks.pop_vectors(stack, near, tril, everywhere=True), values.shape)
        loc = _first(self._bend(noise), count)
        stacks.push_normals(stack, values[:count], loc, np.full(loc.shape, STEP), everywhere=True)
        _push_standard(stack, noise, count)

    def pop(self, stack: Stack, shape: tuple[int, ...], count: int) -> Values:
        """Draw the latents of the first `count` images of a block with bits from the stack; the rest are 0."""
        noise = _pop_standard(stack, shape, count)
        loc = _first(self._bend(noise), count)
        values = _block(stacks.pop_normals(stack, loc, np.full(loc.shape, STEP), everywhere=True), shape)
        near, tril = _first(self._noise_near(values), count)
        stacks.push_vectors(stack, noise[:count], near, tril, everywhere=True)
        return values

    @jax.jit
    def _bend(self, noise: Int[Array, "b d"]) -> Float[Array, "b d"]:
        """Return h(ε)."""
        z = self.posterior.from_noise(noise * STEP)
        return _unit(self.prior).to_noise(z).reshape(noise.shape)

    @jax.jit
    def _noise_near(self, values: Int[Array, "b d"]) -> Normals:
        """Return the posterior of ε given u, N(h⁻¹(u), σ² G Gᵀ)."""

        def straighten(u: Float[Array, "b d"]) -> Float[Array, "b d"]:
            return self.posterior.to_noise(_unit(self.prior).from_noise(u)).reshape(values.shape)

        noise, columns = _linear(straighten, values * STEP)
        return _normals(noise, columns * STEP)


def _unit(prior: FromNoise) -> FromNoise:
    """Return the distribution whose noise codes latents: the prior, or a normal with the moments of a mixture."""
    if not isinstance(prior, Mixture):
        return prior
    weights = jax.nn.softmax(prior.logits)
    loc, columns = _linear(prior.components.from_noise, _centre(prior.components))
    mean = weights @ loc
    variance = weights @ ((columns**2).sum(-1) + (loc - mean) ** 2)
    return Normal(mean, 0.5 * jnp.log(variance))


def _centre(p: FromNoise) -> Float[Array, "*b n"]:
    """Return zeros in the shape of the noise."""
    return jnp.zeros((*p.mean().shape[:-1], *p.noise_shape))


def _linear(
    function: Callable[[Array], Array], at: Float[Array, "*b d"]
) -> tuple[Float[Array, "*b d"], Float[Array, "*b d d"]]:
    """Return the value of a function of vectors at a point, and its Jacobian."""

    def along(direction: Float[Array, " d"]) -> Float[Array, "*b d"]:
        return jax.jvp(function, (at,), (jnp.broadcast_to(direction, at.shape),))[1]

    return function(at), jnp.moveaxis(jax.vmap(along)(jnp.eye(at.shape[-1])), 0, -1)


def in_units(posterior: LatentDistribution, prior: LatentDistribution) -> "Normals | Warped":
    """Express a posterior in units of its prior.

    Raises:
        UserError: one of the two is not a function of noise.
    """
    if not (isinstance(posterior, FromNoise) and isinstance(prior, FromNoise)):
        raise UserError(
            f"Latents with the posterior {type(posterior).__name__} and the prior {type(prior).__name__} cannot be "
            "compressed: both have to be functions of noise."
        )
    if not (isinstance(posterior, _AFFINE) and isinstance(_unit(prior), _AFFINE)):
        return Warped(posterior, prior)
    measure = _unit(prior).to_noise
    if len(posterior.noise_shape) > 1:  # maps, whose latents are independent
        loc = measure(posterior.from_noise(jnp.zeros(())))
        return Normals(loc[0], (measure(posterior.from_noise(jnp.ones(()))) - loc)[0])
    return _normals(*_linear(lambda noise: measure(posterior.from_noise(noise)), _centre(posterior)))


def _normals(loc: Float[Array, "*b d"], columns: Float[Array, "*b d d"]) -> Normals:
    """Return normals of vectors with covariance A Aᵀ."""
    size = loc.shape[-1]
    columns = columns.reshape(-1, size, size)
    # The added variance is far below a step, and makes the covariance positive definite.
    covariance = columns @ columns.mT + (STEP / 64) ** 2 * jnp.eye(size)
    return Normals(loc.reshape(-1, size), jnp.linalg.cholesky(covariance))


@jax.jit
def place(prior: FromNoise, values: Int[Array, "..."], like: Float[Array, "1 b ..."]) -> Array:
    """Return the latents at values in steps, in the shape of `like`."""
    return jnp.broadcast_to(_unit(prior).from_noise(values * STEP), like.shape)


def push_prior(prior: LatentDistribution, stack: Stack, values: Values, count: int) -> None:
    """Push the latents of the first `count` images of a block under their prior: N(0, I) in its units, or a mixture."""
    if not isinstance(prior, Mixture):
        return _push_standard(stack, values, count)
    components, weights = _components(prior)
    which = stacks.pop_choices(stack, _weights(_first(_responsibilities(prior, values), count)))
    loc, tril = _first(components, which)
    stacks.push_vectors(stack, values[:count], loc, tril, everywhere=True)
    stacks.push_choices(stack, which, _weights(np.tile(weights, (count, 1))))


def pop_prior(prior: LatentDistribution, stack: Stack, shape: tuple[int, ...], count: int) -> Values:
    """Pop the latents that `push_prior` pushed, for a block of the given shape."""
    if not isinstance(prior, Mixture):
        return _pop_standard(stack, shape, count)
    components, weights = _components(prior)
    which = stacks.pop_choices(stack, _weights(np.tile(weights, (count, 1))))
    loc, tril = _first(components, which)
    values = _block(stacks.pop_vectors(stack, loc, tril, everywhere=True), shape)
    stacks.push_choices(stack, which, _weights(_first(_responsibilities(prior, values), count)))
    return values


@jax.jit
def _components(prior: Mixture) -> tuple[Normals, Float[Array, " m"]]:
    """Return the components of a mixture in its units, and their weights."""
    measure = _unit(prior).to_noise
    loc, columns = _linear(lambda noise: measure(prior.components.from_noise(noise)), _centre(prior.components))
    return _normals(loc, columns), jax.nn.softmax(prior.logits)


@jax.jit
def _responsibilities(prior: Mixture, values: Int[Array, "b d"]) -> Float[Array, "b m"]:
    """Return p(m | z) for each component m."""
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
    """Copy rows of every array to the host: the first `which`, or those at an array of indices."""
    rows = which if isinstance(which, np.ndarray) else slice(which)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def _weights(probabilities: Float[np.ndarray, "n m"]) -> Float[np.ndarray, "n m"]:
    """Round probabilities to integers, each at least 1."""
    return np.floor(probabilities * RESOLUTION) + 1


def _block(values: Values, shape: tuple[int, ...]) -> Values:
    """Pad values with zeros to a block."""
    return np.concatenate([values, np.zeros((shape[0] - len(values), *shape[1:]), values.dtype)])
