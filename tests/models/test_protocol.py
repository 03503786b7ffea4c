"""A model with two layers of latents "h w c" that has no methods except those of the protocol."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from flax_vae import (
    ELBO,
    IWAE,
    STL,
    Capacity,
    DReG,
    FreeBits,
    Inference,
    Layer,
    Normal,
    Renyi,
    UserError,
    encode,
    init,
    init_state,
    latent_grid,
    log_likelihood,
    make_optimizer,
    make_train_step,
    sample,
)
from flax_vae.models.protocol import provides, require
from flax_vae.objectives.base import apply_objective

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(5, 2, 3, 1)).astype(np.float32)
NOISE = 0.5  # standard deviation of each of the two steps, z_1 -> z_2 -> x


class Spatial(nn.Module):
    """z_1 ~ N(0, 1), z_2 ~ N(z_1, NOISE²), x ~ N(z_2, NOISE²), per pixel; the posterior is exact except for `shift`."""

    shift: float = 0.0

    def setup(self) -> None:
        self.moved = self.param("shift", nn.initializers.constant(self.shift), ())

    def top(self, x: jax.Array) -> Normal:
        total = 1 + 2 * NOISE**2
        return self.normal(x / total + self.moved, np.sqrt(2 * NOISE**2 / total))

    def below(self, x: jax.Array, z1: jax.Array) -> Normal:
        return self.normal((z1 + x) / 2 + self.moved, NOISE / np.sqrt(2))

    def infer(self, x: jax.Array, key: jax.Array, num_samples: int = 1) -> Inference:
        top_key, key = jax.random.split(key)
        z1, log_q1 = self.top(x).sample_and_log_prob(top_key, (num_samples,))
        z2, log_q2 = self.below(x, z1).sample_and_log_prob(key)
        return self.inference(x, (z1, z2), (log_q1, log_q2))

    def infer_at(self, x: jax.Array, latents: tuple[jax.Array, jax.Array]) -> Inference:
        z1, z2 = latents
        return self.inference(x, latents, (self.top(x).log_prob(z1), self.below(x, z1).log_prob(z2)))

    def inference(self, x: jax.Array, latents: tuple, log_q: tuple) -> Inference:
        z1, z2 = latents
        prior = self.normal(jnp.zeros(x.shape[1:]), 1.0)
        top, below = Layer(z1, log_q[0], self.top(x), prior), self.below(x, z1)
        return Inference((top, Layer(z2, log_q[1], below, self.normal(z1, NOISE))), self.normal(z2, NOISE))

    def generate(self, key: jax.Array, num_samples: int, temperature: float = 1.0) -> Normal:
        z1 = self.normal(jnp.zeros((num_samples, 2, 3, 1)), temperature).sample(key)
        return self.normal(z1, NOISE * temperature)

    def normal(self, loc: jax.Array, scale: float) -> Normal:
        return Normal(loc, jnp.full(loc.shape, jnp.log(scale)), event_ndim=3)

    def __call__(self, x: jax.Array, key: jax.Array) -> Inference:
        return self.infer(x, key)


def log_evidence() -> np.ndarray:
    return scipy.stats.norm(0, np.sqrt(1 + 2 * NOISE**2)).logpdf(IMAGES).sum((1, 2, 3))


def test_the_bound_of_the_exact_posterior_is_the_evidence() -> None:
    params = init(Spatial(), KEY, (2, 3, 1))
    bound, error, _ = log_likelihood(Spatial(), params, IMAGES, KEY, 100)
    np.testing.assert_allclose(bound, log_evidence(), rtol=1e-4)
    np.testing.assert_allclose(error, 0, atol=1e-3)


@pytest.mark.parametrize("objective", [IWAE(4), Renyi(0.5, 4), STL(4), DReG(4)], ids=repr)
def test_every_bound_is_tight_at_the_exact_posterior(objective) -> None:
    """The weight of every draw is p(x)."""
    params = init(Spatial(), KEY, (2, 3, 1))
    terms = jax.jit(partial(apply_objective, Spatial(), objective))(params, IMAGES, KEY, 0)
    np.testing.assert_allclose(-terms["loss"], log_evidence(), rtol=1e-4)


OBJECTIVES = [ELBO(), IWAE(4), Renyi(0.5, 4), STL(4), DReG(4), FreeBits(0.1), Capacity(1.0)]


@pytest.mark.quick(2)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_objectives_train_it(objective) -> None:
    """The shift approaches 0, where the posterior is exact and the bound is tight."""
    tx = make_optimizer("adam", 1e-2, 1000)
    state, step = init_state(Spatial(0.5), tx, KEY, (2, 3, 1)), make_train_step(Spatial(0.5), objective, tx)
    for _ in range(60):
        state, metrics = step(state, IMAGES)
    assert np.isfinite(list(map(float, metrics.values()))).all()
    assert abs(float(state.params["shift"])) < (0.2 if not isinstance(objective, Capacity) else 0.5)


def test_it_samples_and_refuses_what_it_lacks() -> None:
    params = init(Spatial(), KEY, (2, 3, 1))
    assert sample(Spatial(), params, KEY, 7, pixel_key=KEY).shape == (7, 2, 3, 1)
    assert provides(Spatial(), "infer_at")
    with pytest.raises(UserError, match="encode needs a model with one latent vector, which Spatial does not have"):
        encode(Spatial(), params, IMAGES)
    with pytest.raises(UserError, match="latent_grid needs a model with one latent vector"):
        latent_grid(Spatial(), params)
    with pytest.raises(UserError, match="here needs a model with a ladder of latents, which Spatial does not have"):
        require(Spatial(), "infer_at", "ladder", what="here")
