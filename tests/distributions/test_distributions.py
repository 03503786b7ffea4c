"""Densities against SciPy, and draws against their own density."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from flax_vae import Bernoulli, Normal, kl_divergence
from flax_vae.distributions import Chain, Flow, Mixture, MultivariateNormal
from flax_vae.models.posteriors import InverseAutoregressive
from flax_vae.models.priors import CouplingFlow
from flax_vae.nn.bijectors import Autoregressive

RNG = np.random.default_rng(0)


def normal(shape: tuple[int, ...], event_ndim: int = 1) -> Normal:
    loc, log_scale = RNG.normal(size=(2, *shape)).astype(np.float32)
    return Normal(jnp.asarray(loc), jnp.asarray(log_scale), event_ndim)


@pytest.mark.parametrize(("shape", "event_ndim"), [((5, 3), 1), ((4, 2, 3, 1), 3)])
def test_normal_log_prob_is_scipys(shape: tuple[int, ...], event_ndim: int) -> None:
    p = normal(shape, event_ndim)
    x = RNG.normal(size=(7, *shape)).astype(np.float32)
    expected = scipy.stats.norm.logpdf(x, p.loc, np.exp(p.log_scale)).sum(tuple(range(-event_ndim, 0)))
    np.testing.assert_allclose(p.log_prob(jnp.asarray(x)), expected, rtol=2e-5)


def test_bernoulli_log_prob_is_scipys() -> None:
    logits = RNG.normal(size=(4, 2, 3, 1)).astype(np.float32)
    x = RNG.integers(0, 2, size=(6, 4, 2, 3, 1))
    expected = scipy.stats.bernoulli.logpmf(x, scipy.special.expit(logits)).sum((-3, -2, -1))
    np.testing.assert_allclose(
        Bernoulli(jnp.asarray(logits)).log_prob(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5
    )


def test_bernoulli_of_grey_values_is_minus_their_cross_entropy() -> None:
    logits, x = RNG.normal(size=(3, 2, 2, 1)), RNG.uniform(size=(3, 2, 2, 1))
    p = scipy.special.expit(logits)
    expected = (x * np.log(p) + (1 - x) * np.log1p(-p)).sum((1, 2, 3))
    np.testing.assert_allclose(
        Bernoulli(jnp.asarray(logits, jnp.float32)).log_prob(jnp.asarray(x)), expected, rtol=1e-5
    )


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_bernoulli_stays_finite_where_probabilities_round_to_zero_or_one(logit: float) -> None:
    def log_prob(logits: jax.Array) -> jax.Array:
        return Bernoulli(logits).log_prob(jnp.zeros((1, 1, 1)))

    value, slope = jax.value_and_grad(log_prob)(jnp.full((1, 1, 1), logit))
    np.testing.assert_allclose(value, -max(logit, 0.0), atol=1e-6)
    np.testing.assert_allclose(slope.item(), -float(logit > 0), atol=1e-6)


@pytest.mark.parametrize("logit", [0.0, 1e-3, -1e-3, 5.0, -5.0, 30.0, -30.0])
def test_bernoulli_gradient_is_x_minus_the_mean(logit: float) -> None:
    logits = jnp.full((1, 2, 1), logit)
    x = jnp.array([0.3, 1.0]).reshape(1, 2, 1)
    gradient = jax.grad(lambda logits: Bernoulli(logits).log_prob(x))(logits)
    np.testing.assert_allclose(gradient, np.asarray(x) - scipy.special.expit(np.float64(logit)), rtol=1e-6, atol=1e-7)


def test_kl_between_normals_is_the_integral_of_its_definition() -> None:
    q, p = normal((3, 2)), normal((2,))
    for i in range(3):
        expected = 0.0
        for j in range(2):
            one = scipy.stats.norm(q.loc[i, j], np.exp(q.log_scale[i, j]))
            other = scipy.stats.norm(p.loc[j], np.exp(p.log_scale[j]))
            expected += one.expect(lambda z, one=one, other=other: one.logpdf(z) - other.logpdf(z))
        np.testing.assert_allclose(kl_divergence(q, p)[i], expected, rtol=1e-5)


def test_kl_keeps_its_digits_close_to_the_prior() -> None:
    log_scale = 1e-4  # ½ (σ² - 1 - log σ²) = log_scale² + O(log_scale³): far below the rounding of 1
    q = Normal(jnp.zeros(1), jnp.full(1, log_scale))
    np.testing.assert_allclose(kl_divergence(q, Normal(jnp.zeros(1), jnp.zeros(1))), log_scale**2, rtol=2e-3)


def test_draws_have_the_density_that_log_prob_states() -> None:
    p = Normal(jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.5, 3.0])))
    z = np.asarray(p.sample(jax.random.key(0), (20_000,)))
    assert z.shape == (20_000, 2)
    for j in range(2):
        assert scipy.stats.kstest(z[:, j], scipy.stats.norm(p.loc[j], np.exp(p.log_scale[j])).cdf).pvalue > 1e-3
    bits = Bernoulli(jnp.full((1, 1, 2), 0.7)).sample(jax.random.key(1), (20_000,))
    np.testing.assert_allclose(bits.mean((0, 1, 2)), scipy.special.expit(0.7), atol=0.015)


def test_temperature_scales_the_standard_deviation() -> None:
    p = normal((2,)).tempered(0.5)
    z = np.asarray(p.sample(jax.random.key(0), (50_000,)))
    np.testing.assert_allclose(z.std(0), np.exp(p.log_scale), rtol=0.02)
    np.testing.assert_allclose(normal((2,)).tempered(1.0).log_scale.shape, (2,))


def test_draws_are_reparameterised() -> None:
    def draw(loc: jax.Array, log_scale: jax.Array) -> jax.Array:
        return Normal(loc, log_scale).sample(jax.random.key(3)).sum()

    loc, log_scale = jnp.array([0.3]), jnp.array([-0.2])
    noise = (draw(loc, log_scale) - 0.3) / np.exp(-0.2)
    d_loc, d_log_scale = jax.grad(draw, (0, 1))(loc, log_scale)
    np.testing.assert_allclose(d_loc, 1.0)
    np.testing.assert_allclose(d_log_scale, np.exp(-0.2) * noise, rtol=1e-5)


def correlated(*batch: int) -> MultivariateNormal:
    """Three dimensions with random correlations."""
    loc, rows = RNG.normal(size=(*batch, 3)), RNG.normal(size=(*batch, 3, 3))
    scale_tril = np.tril(rows, -1) + np.exp(0.5 * RNG.normal(size=(*batch, 3, 1))) * np.eye(3)
    return MultivariateNormal(jnp.asarray(loc, jnp.float32), jnp.asarray(scale_tril, jnp.float32))


def covariance(p: MultivariateNormal) -> np.ndarray:
    return np.float64(p.scale_tril) @ np.float64(p.scale_tril).swapaxes(-1, -2)


def test_multivariate_normal_is_scipys() -> None:
    p, x = correlated(4), RNG.normal(size=(6, 4, 3))
    for i in range(4):
        expected = scipy.stats.multivariate_normal(np.float64(p.loc[i]), covariance(p)[i]).logpdf(x[:, i])
        np.testing.assert_allclose(p.log_prob(jnp.asarray(x, jnp.float32))[:, i], expected, rtol=1e-4)
    z = np.asarray(p.sample(jax.random.key(0), (100_000,)))
    for i in range(4):
        np.testing.assert_allclose(np.cov(z[:, i].T), covariance(p)[i], atol=0.03 * np.trace(covariance(p)[i]))
        np.testing.assert_allclose(z[:, i].mean(0), p.mean()[i], atol=0.03)


def test_kl_of_correlated_latents() -> None:
    """½ [tr(T⁻¹Σ) + (m-μ)ᵀT⁻¹(m-μ) - d + log det T/det Σ]; without correlations that of `Normal`."""
    q, p = correlated(4), normal((3,))
    variance = np.exp(2 * np.float64(p.log_scale))
    for i in range(4):
        sigma, distance = covariance(q)[i], np.float64(q.loc[i] - p.loc)
        expected = (np.diag(sigma) / variance).sum() + (distance**2 / variance).sum() - 3
        expected += np.log(variance).sum() - np.linalg.slogdet(sigma)[1]
        np.testing.assert_allclose(kl_divergence(q, p)[i], 0.5 * expected, rtol=1e-4)
    plain = normal((4, 3))
    same = MultivariateNormal(plain.loc, jnp.exp(plain.log_scale)[..., None] * jnp.eye(3))
    np.testing.assert_allclose(kl_divergence(same, p), kl_divergence(plain, p), rtol=1e-5)


def test_a_kl_without_a_closed_form_is_refused() -> None:
    mixture = Mixture(jnp.zeros(4), normal((4, 3)))
    with pytest.raises((TypeError, jaxtyping.TypeCheckError)):
        kl_divergence(normal((4, 3)), mixture)


def test_a_mixture_is_the_weighted_sum_of_its_components() -> None:
    loc, log_scale = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    logits, x = RNG.normal(size=4).astype(np.float32), RNG.normal(size=(5, 6, 3)).astype(np.float32)
    densities = scipy.stats.norm(loc, np.exp(log_scale)).pdf(x[..., None, :]).prod(-1)
    expected = np.log(densities @ scipy.special.softmax(logits))
    p = Mixture(jnp.asarray(logits), Normal(jnp.asarray(loc), jnp.asarray(log_scale)))
    np.testing.assert_allclose(p.log_prob(jnp.asarray(x)), expected, rtol=1e-4)
    np.testing.assert_allclose(p.mean(), scipy.special.softmax(logits) @ loc, rtol=1e-5)


def test_a_large_mixture_has_the_density_and_the_gradients_that_it_has_in_float64() -> None:
    """Of the size of a VampPrior's: more pairs of draws and components than are worked on at a time."""
    loc, log_scale = RNG.normal(size=(500, 40)), RNG.normal(-1, 0.3, size=(500, 40))
    x = loc[RNG.integers(500, size=77)] + 0.5 * RNG.normal(size=(77, 40))
    standardised = (x[:, None] - loc) * np.exp(-log_scale)
    of_components = scipy.stats.norm.logpdf(standardised).sum(-1) - log_scale.sum(-1) - np.log(500)
    expected = scipy.special.logsumexp(of_components, axis=1)
    share = np.exp(of_components - expected[:, None])[..., None]
    pull = share * standardised * np.exp(-log_scale)

    def total(x: Any, loc: Any, log_scale: Any) -> jax.Array:
        return Mixture(jnp.zeros(500), Normal(loc, log_scale)).log_prob(x).sum()

    arguments = [jnp.asarray(array, jnp.float32) for array in (x, loc, log_scale)]
    found = Mixture(jnp.zeros(500), Normal(*arguments[1:])).log_prob(arguments[0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    gradients = jax.jit(jax.grad(total, (0, 1, 2)))(*arguments)
    for gradient, right in zip(
        gradients, (-pull.sum(1), pull.sum(0), (share * (standardised**2 - 1)).sum(0)), strict=True
    ):
        np.testing.assert_allclose(gradient, right, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_of_a_mixture_have_its_density(temperature: float) -> None:
    components = Normal(jnp.array([[-2.0], [1.0]]), jnp.log(jnp.array([[0.5], [1.5]])))
    p = Mixture(jnp.array([0.0, 1.0]), components).tempered(temperature)
    z = np.asarray(p.sample(jax.random.key(0), (20_000,)))[:, 0]
    grid = np.linspace(-12, 12, 20_001)
    cdf = scipy.integrate.cumulative_simpson(
        np.exp(np.float64(p.log_prob(jnp.asarray(grid)[:, None]))), x=grid, initial=0
    )
    np.testing.assert_allclose(cdf[-1], 1.0, rtol=1e-4)
    assert scipy.stats.kstest(z, lambda value: np.interp(value, grid, cdf)).pvalue > 1e-3


class Posterior(nn.Module):
    """An inverse autoregressive flow given features of their own for two images."""

    latent_dim: int

    @nn.compact
    def __call__(self) -> Flow:
        return InverseAutoregressive(self.latent_dim, layers=2, hidden=8)(jnp.array([[0.3, -1.0], [2.0, 0.5]]))


def moved(module: nn.Module) -> Any:
    """The module's distribution with random parameters in place of the first ones, which make it the base."""
    leaves, tree = jax.tree.flatten(jax.jit(module.init)(jax.random.key(0)))
    random = np.random.default_rng(1)
    return module.apply(tree.unflatten([0.5 * jnp.asarray(random.normal(size=p.shape), p.dtype) for p in leaves]))


@pytest.mark.parametrize("module", [CouplingFlow(3, layers=4, hidden=8), Posterior(3)], ids=["coupling", "iaf"])
def test_a_flow_is_inverted_and_its_determinant_is_that_of_its_jacobian(module: nn.Module) -> None:
    p = moved(module)
    noise = jax.random.normal(jax.random.key(2), (20, *p.base.loc.shape))
    z, log_forward = jax.jit(lambda noise: p.forward(noise))(noise)
    found, log_determinants = jax.jit(lambda z: p.inverse(z))(z)
    np.testing.assert_allclose(log_forward, -log_determinants, atol=1e-4)
    assert np.abs(z - noise).max() > 0.5
    np.testing.assert_allclose(found, noise, atol=1e-4)
    jacobians = jax.jit(jax.vmap(jax.jacobian(lambda noise: p.forward(noise)[0])))(noise)
    size = noise[0].size
    of_all = np.linalg.slogdet(np.float64(jacobians).reshape(20, size, size))[1]
    np.testing.assert_allclose(log_determinants.reshape(20, -1).sum(-1), -of_all, atol=1e-4)


def test_an_autoregressive_flow_gives_each_dimension_what_came_before_it() -> None:
    """One layer: the Jacobian by the noise is triangular, and every entry below its diagonal is in use."""
    flow = Autoregressive(5, layers=1, hidden=16)
    noise, h = jnp.linspace(-1.0, 1.0, 5), jnp.array([1.0, -0.5])
    params = jax.tree.map(lambda p: p + 0.1, jax.jit(flow.init)(jax.random.key(0), noise, h))
    jacobian = np.asarray(jax.jit(jax.jacobian(lambda *arguments: flow.apply(params, *arguments)[0]))(noise, h))[
        ::-1
    ]  # its order is reversed
    assert (np.triu(jacobian, 1) == 0).all()
    assert (np.tril(jacobian, -1)[np.tril_indices(5, -1)] != 0).all()


@pytest.mark.parametrize("module", [CouplingFlow(1, layers=2, hidden=4), Posterior(1)], ids=["coupling", "iaf"])
def test_a_flow_of_one_dimension_integrates_to_one(module: nn.Module) -> None:
    p, grid = moved(module), np.linspace(-20, 20, 40_001)
    batch = p.base.loc.shape[:-1]
    points = jnp.broadcast_to(jnp.asarray(grid).reshape(-1, *(1,) * len(batch), 1), (len(grid), *batch, 1))
    density = np.exp(np.float64(jax.jit(lambda z: p.log_prob(z))(points))).reshape(len(grid), -1)[:, 0]
    np.testing.assert_allclose(scipy.integrate.simpson(density, x=grid), 1.0, rtol=1e-4)
    cdf = scipy.integrate.cumulative_simpson(density, x=grid, initial=0)
    draws = np.asarray(p.sample(jax.random.key(0), (20_000,))).reshape(20_000, -1)[:, 0]
    assert scipy.stats.kstest(draws, lambda value: np.interp(value, grid, cdf)).pvalue > 1e-3


def test_a_fresh_flow_is_the_standard_normal() -> None:
    module, z = CouplingFlow(3), normal((5, 3)).loc
    p = module.apply(jax.jit(module.init)(jax.random.key(0)))
    np.testing.assert_allclose(p.log_prob(z), scipy.stats.norm.logpdf(z).sum(-1), rtol=1e-5)
    half = p.tempered(0.5).sample(jax.random.key(0), (50_000,))
    np.testing.assert_allclose(half.std(0), 0.5, rtol=0.02)


LATENTS: dict[str, Callable[[], Any]] = {
    "normal": lambda: Normal(jnp.array([[0.3, -1.0]]), jnp.array([[0.5, -2.0]])),
    "full": lambda: MultivariateNormal(jnp.array([0.3, -1.0]), jnp.array([[0.5, 0.0], [3.0, 0.1]])),
    "mixture": lambda: Mixture(jnp.array([0.2, -1.0]), Normal(jnp.eye(2), -jnp.eye(2))),
    "coupling": lambda: moved(CouplingFlow(3, layers=4, hidden=8)),
    "iaf": lambda: moved(Posterior(3)),
    "chain": lambda: chain(),
    "chain below a mixture": lambda: replace(chain(), top=LATENTS["mixture"]()),
}


@pytest.mark.parametrize("distribution", LATENTS.values(), ids=LATENTS)
def test_the_density_of_a_draw_is_known_when_it_is_drawn(distribution: Callable[[], Any]) -> None:
    """The same draw as by `sample`, and the log-density that `log_prob` finds."""
    p, key = distribution(), jax.random.key(3)
    z, log_q = jax.jit(lambda: p.sample_and_log_prob(key, (40,)))()
    np.testing.assert_allclose(z, p.sample(key, (40,)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_q, p.log_prob(z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("distribution", LATENTS.values(), ids=LATENTS)
def test_noise_becomes_a_draw(distribution: Callable[[], Any]) -> None:
    """Its density, and each dimension, have the distribution that those of `sample` have."""
    p, draws = distribution(), 20_000
    drawn = jax.jit(lambda key: p.sample(key, (draws,)))(jax.random.key(4))
    batch = jax.eval_shape(p.log_prob, drawn).shape
    noise = np.random.default_rng(5).normal(size=(*batch, *p.noise_shape)).astype(np.float32)
    made = jax.jit(lambda noise: p.from_noise(noise))(noise)
    assert made.shape == drawn.shape
    both = [np.concatenate([z.reshape(draws, -1), p.log_prob(z).reshape(draws, -1)], axis=1) for z in (made, drawn)]
    for one, other in zip(*(values.T for values in both), strict=True):
        assert scipy.stats.ks_2samp(one, other).pvalue > 1e-3


@pytest.mark.parametrize("distribution", LATENTS.values(), ids=LATENTS)
def test_the_density_of_what_noise_becomes_is_known_with_it(distribution: Callable[[], Any]) -> None:
    p = distribution()
    batch = jax.eval_shape(lambda: p.log_prob(p.mean())).shape
    noise = jnp.asarray(np.random.default_rng(6).normal(size=(7, *batch, *p.noise_shape)), jnp.float32)
    made, log_prob = p.from_noise_and_log_prob(noise)
    np.testing.assert_array_equal(made, p.from_noise(noise))
    np.testing.assert_allclose(log_prob, p.log_prob(made), rtol=1e-4, atol=1e-4)


def chain() -> Chain:
    """z_1 ~ N(0, I) in two dimensions; z_2 ~ N(z_1 of both summed, e^½); z_3 ~ N(z_2 - 1, 0.5): jointly normal."""

    def second(above: jax.Array) -> Normal:
        mean = above.sum(-1, keepdims=True)
        return Normal(mean, jnp.full_like(mean, 0.5))

    def third(above: jax.Array) -> Normal:
        return Normal(above[..., 2:] - 1, jnp.full_like(above[..., 2:], jnp.log(0.5)))

    return Chain(Normal(jnp.zeros(2), jnp.zeros(2)), (second, third), (2, 1, 1))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_chain_is_the_joint_normal_that_its_layers_make(temperature: float) -> None:
    """z = m + A ε, row by row as the layers are written; a temperature scales every layer's ε."""
    a = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, np.exp(0.5), 0], [1, 1, np.exp(0.5), 0.5]]) * temperature
    joint = scipy.stats.multivariate_normal([0, 0, 0, -1], a @ a.T)
    p = chain().tempered(temperature)
    z = joint.rvs(10, random_state=0)
    np.testing.assert_allclose(p.log_prob(jnp.asarray(z, jnp.float32)), joint.logpdf(z), rtol=1e-4)
    np.testing.assert_array_equal(p.mean(), joint.mean)
    draws = np.asarray(p.sample(jax.random.key(0), (100_000,)))
    np.testing.assert_allclose(np.cov(draws.T), a @ a.T, atol=0.05)
    latents, _ = zip(*p.layers(jnp.asarray(z)), strict=True)
    assert [latent.shape for latent in latents] == [(10, 2), (10, 1), (10, 1)]
