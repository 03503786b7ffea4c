"""Densities, divergences and whole models against NumPyro's, in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from flax_vae import Bernoulli, Config, Normal, bind, init, kl_divergence, log_weights
from flax_vae.distributions.levels import LEVELS, BetaBinomial, Categorical
from flax_vae.distributions.mixture import Mixture
from flax_vae.distributions.normal import MultivariateNormal
from flax_vae.runs.models import make_model

pytestmark = pytest.mark.optimized


class Parameters:
    """Random float32 arrays of a given scale."""

    def __init__(self, size: float) -> None:
        self.size, self.rng = size, np.random.default_rng(0)

    def real(self, *shape: int) -> np.ndarray:
        return (self.size * self.rng.normal(size=shape)).astype(np.float32)

    def log_scale(self, *shape: int) -> np.ndarray:
        return self.real(*shape).clip(-15, 15)

    def scale_tril(self, *shape: int) -> np.ndarray:
        rows = np.tril(self.real(*shape), -1) + np.eye(shape[-1], dtype=np.float32)
        return np.exp(self.log_scale(*shape[:-1], 1)) * rows


def normal(loc: jax.Array, log_scale: jax.Array) -> dist.Distribution:
    return dist.Normal(loc, jnp.exp(log_scale)).to_event(1)


def multivariate(loc: jax.Array, scale_tril: jax.Array) -> dist.Distribution:
    return dist.MultivariateNormal(loc, scale_tril=scale_tril)


def mixture(logits: jax.Array, loc: jax.Array, log_scale: jax.Array) -> dist.Distribution:
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), normal(loc, log_scale))


def bernoulli(logits: jax.Array) -> dist.Distribution:
    return dist.Bernoulli(logits=logits).to_event(3)


def categorical(logits: jax.Array) -> dist.Distribution:
    return dist.Categorical(logits=logits).to_event(3)


def beta_binomial(*logs: jax.Array) -> dist.Distribution:
    return dist.BetaBinomial(*(jnp.exp(log.clip(-7, 7)) for log in logs), total_count=255).to_event(3)


# Distributions of flax_vae and of NumPyro, their parameters, and NumPyro's largest pixel value.
DENSITIES = {
    "normal": (Normal, normal, lambda p: (p.real(5, 3), p.log_scale(5, 3)), None),
    "multivariate": (MultivariateNormal, multivariate, lambda p: (p.real(5, 3), p.scale_tril(5, 3, 3)), None),
    "mixture": (
        lambda logits, *of_components: Mixture(logits, Normal(*of_components)),
        mixture, lambda p: (p.real(4), p.real(4, 3), p.log_scale(4, 3)), None,
    ),
    "bernoulli": (Bernoulli, bernoulli, lambda p: (p.real(5, 2, 2, 1),), 1),
    "categorical": (Categorical, categorical, lambda p: (p.real(5, 2, 2, 1, LEVELS),), 255),
    "beta-binomial": (
        BetaBinomial, beta_binomial, lambda p: (p.real(5, 2, 2, 1), p.real(5, 2, 2, 1)), 255
    ),
}  # fmt: skip


@pytest.mark.quick(2)
@pytest.mark.parametrize(("ours", "theirs", "parameters", "top"), DENSITIES.values(), ids=DENSITIES.keys())
def test_densities(ours: Any, theirs: Callable, parameters: Callable, top: int | None) -> None:
    """Compare at draws, and at zero and one: the ends of the range of pixels, and far from narrow normals."""

    @jax.jit
    def found(values: tuple, x: jax.Array) -> jax.Array:
        return ours(*values).log_prob(x)

    @jax.jit
    def expected(values: tuple, x: jax.Array) -> jax.Array:
        return theirs(*values).log_prob(x)

    for size in (1.0, 15.0):
        some = Parameters(size)
        values = parameters(some)
        if top:
            x = some.rng.integers(0, top + 1, (50, 5, 2, 2, 1))
            x[0], x[1] = 0, top
        else:
            x = np.array(ours(*map(jnp.asarray, values)).sample(jax.random.key(0), (50,)))
            x[0], x[1] = 0, 1
        with jax.enable_x64(True):
            theirs_at_x = expected(jax.tree.map(np.float64, values), x if top else np.float64(x))
        # The terms of a sum near 0 may be a hundred nats, which float32 rounds to 1e-5. Those of the beta-binomial
        # reach 256 nats, and two of them cancel in each of four pixels.
        rounding = 6e-5 if theirs is beta_binomial else 3e-5
        np.testing.assert_allclose(found(values, np.float32(x / (top or 1))), theirs_at_x, rtol=1e-5, atol=rounding)


def test_divergences() -> None:
    @jax.jit
    def found(q: tuple, full: tuple, p: tuple) -> tuple[jax.Array, jax.Array]:
        return kl_divergence(Normal(*q), Normal(*p)), kl_divergence(MultivariateNormal(*full), Normal(*p))

    @jax.jit
    def expected(q: tuple, full: tuple, p: tuple) -> tuple[jax.Array, jax.Array]:
        prior = multivariate(p[0], jnp.diag(jnp.exp(p[1])))
        return dist.kl_divergence(normal(*q), normal(*p)), dist.kl_divergence(multivariate(*full), prior)

    for size in (1.0, 15.0):
        some = Parameters(size)
        values = (
            (some.real(50, 3), some.log_scale(50, 3)), (some.real(50, 3), some.scale_tril(50, 3, 3)),
            (some.real(3), some.log_scale(3)),
        )  # fmt: skip
        with jax.enable_x64(True):
            theirs = expected(*jax.tree.map(np.float64, values))
        for one, other in zip(found(*values), theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)


def dense(params: dict, h: jax.Array) -> jax.Array:
    return h @ params["kernel"] + params["bias"]


def model(params: dict, x: jax.Array) -> None:
    """p(z) p(x | z): a mixture of normals, a ReLU layer, and beta-binomial pixels."""
    prior, decoder = params["prior"], params["decoder"]
    with numpyro.plate("images", len(x)):
        z = numpyro.sample("z", mixture(prior["logits"], prior["loc"], prior["log_scale"]))
        h = jax.nn.relu(dense(decoder["ReluDense_0"]["Dense_0"], z))
        output = dense(decoder["Dense_0"], h).reshape(len(x), 2, 3, 1, 2)
        numpyro.sample("x", beta_binomial(output[..., 0], output[..., 1]), obs=jnp.round(255 * x))


def guide(params: dict, x: jax.Array) -> None:
    """q(z | x): a normal with a full covariance."""
    posterior = params["posterior"]
    h = jax.nn.relu(dense(params["encoder"]["ReluDense_0"]["Dense_0"], x.reshape(len(x), -1)))
    unit = jnp.tril(dense(posterior["rows"], h).reshape(-1, 2, 2), -1) + jnp.eye(2)
    scale = jnp.exp(0.5 * dense(posterior["diagonal"]["log_var"], h))
    with numpyro.plate("images", len(x)):
        numpyro.sample("z", multivariate(dense(posterior["diagonal"]["mean"], h), scale[..., None] * unit))


def log_probs(program: Callable, params: dict, x: jax.Array, z: jax.Array) -> dict[str, jax.Array]:
    """Return the log-density of each variable of the program for each image, at the latents z."""
    sites = handlers.trace(handlers.substitute(program, {"z": z})).get_trace(params, x)
    return {name: sites[name]["fn"].log_prob(sites[name]["value"]) for name in ("z", "x") if name in sites}


def test_a_whole_model_is_the_same_probabilistic_program() -> None:
    """Compare prior, likelihood and importance weights of each draw and image, at random parameters and biases."""
    config = Config(preset="tutorial_dense", likelihood="beta_binomial", prior="mixture", posterior="full")
    vae, rng = make_model(config, (2, 3, 1)), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init(vae, jax.random.key(0), (2, 3, 1)))
    params = jax.tree.map(lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32), shapes)
    x = jnp.asarray(rng.integers(0, LEVELS, (5, 2, 3, 1)) / 255, jnp.float32)

    @jax.jit
    def ours(params: dict) -> tuple[jax.Array, dict, jax.Array]:
        inference = bind(vae, params).infer(x, jax.random.key(1), 4)
        ((z, _, _, prior),) = inference.layers
        parts = {"z": prior.log_prob(z), "x": inference.likelihood.log_prob(x)}
        return z, parts, log_weights(inference, x)

    @jax.jit
    def theirs(params: dict, x: jax.Array, z: jax.Array) -> tuple[dict, jax.Array]:
        p, q = (jax.vmap(partial(log_probs, program, params, x))(z) for program in (model, guide))
        return p, p["z"] + p["x"] - q["z"]

    z, *found = ours(params)
    with jax.enable_x64(True):
        expected = theirs(*jax.tree.map(np.float64, (params, x, z)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), tuple(found), expected)
