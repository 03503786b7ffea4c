"""The contract of every distribution over latents."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from latents import LATENTS

from flax_vae import UserError
from flax_vae.distributions import FromNoise, LatentDistribution
from flax_vae.pytrees import pytree

DRAWS = 20_000
every_distribution = pytest.mark.parametrize("name", LATENTS)


@cache
def draws(name: str) -> dict[str, Any]:
    """Draws by key and from noise with their log-densities, from one compiled program."""
    p = LATENTS[name]()
    batch = jax.eval_shape(lambda: p.log_prob(p.mean())).shape
    noise = np.random.default_rng(5).normal(size=(DRAWS, *batch, *p.noise_shape)).astype(np.float32)

    @jax.jit
    def run(key: jax.Array, noise: jax.Array) -> dict[str, Any]:
        z, log_q = p.sample_and_log_prob(key, (DRAWS,))
        mapped, mapped_log_q = p.from_noise_and_log_prob(noise)
        return {
            "by key": (z, log_q, p.log_prob(z)),
            "from noise": (mapped, mapped_log_q, p.log_prob(mapped)),
            "same": (p.sample(key, (DRAWS,)), p.from_noise(noise)),
            "noise": p.to_noise(mapped) if "mixture" not in name else None,
        }

    return jax.device_get(run(jax.random.key(4), noise)) | {"drawn noise": noise}


@pytest.mark.quick(2)
@every_distribution
@pytest.mark.parametrize("source", ["by key", "from noise"])
def test_a_draw_comes_with_its_log_density(name: str, source: str) -> None:
    _, log_q, log_prob = draws(name)[source]
    np.testing.assert_allclose(log_q, log_prob, rtol=1e-4, atol=1e-4)


@every_distribution
def test_draws_without_their_density_are_the_same(name: str) -> None:
    found = draws(name)
    for source, z in zip(("by key", "from noise"), found["same"], strict=True):
        np.testing.assert_allclose(z, found[source][0], rtol=1e-5, atol=1e-6)


@every_distribution
def test_draws_from_noise_have_the_distribution_of_draws_by_key(name: str) -> None:
    """Compares each dimension, and the density."""
    found = draws(name)
    rows = [np.concatenate([z.reshape(DRAWS, -1), log_prob.reshape(DRAWS, -1)], axis=1)
            for z, _, log_prob in (found["by key"], found["from noise"])]  # fmt: skip
    for one, other in zip(*(values.T for values in rows), strict=True):
        assert scipy.stats.ks_2samp(one, other).pvalue > 1e-3


@pytest.mark.parametrize("name", [name for name in LATENTS if "mixture" not in name])
def test_to_noise_inverts_from_noise(name: str) -> None:
    found = draws(name)
    np.testing.assert_allclose(found["noise"], found["drawn noise"], rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", ["mixture", "chain below a mixture"])
def test_a_mixture_does_not_determine_its_noise(name: str) -> None:
    p = LATENTS[name]()
    with pytest.raises(UserError, match="A Mixture cannot map latents back to noise"):
        p.to_noise(p.mean())


def test_a_subclass_inherits_what_it_does_not_define() -> None:
    """Define a Student's t with the least that a new distribution needs."""

    @pytree
    class StudentT(LatentDistribution):
        loc: jax.Array

        def log_prob(self, z: jax.Array) -> jax.Array:
            return jax.scipy.stats.t.logpdf(z - self.loc, 5).sum(-1)

        def sample_and_log_prob(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> tuple[Any, Any]:
            z = self.loc + jax.random.t(key, 5, (*sample_shape, *self.loc.shape))
            return z, self.log_prob(z)

        def mean(self) -> jax.Array:
            return self.loc

        def tempered(self, temperature: float | jax.Array) -> "StudentT":
            return self

    p = StudentT(jnp.ones(3))

    @jax.jit
    def run(key: jax.Array) -> tuple[jax.Array, ...]:
        z = p.sample(key, (4,))
        ((drawn, log_q, distribution),) = p.draw_layers(key, (4,))
        assert distribution is p
        return z, p.log_prob(z), drawn, log_q

    z, log_prob, drawn, log_q = run(jax.random.key(0))
    assert z.shape == (4, 3)
    np.testing.assert_array_equal(drawn, z)
    np.testing.assert_array_equal(log_q, log_prob)
    assert not isinstance(p, FromNoise)
    with pytest.raises(TypeError, match="abstract"):
        FromNoise()
