"""Every part can be combined with every other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from flax_vae import ELBO, Config, UserError, bind, encode, init, init_state, make_optimizer, make_train_step, sample
from flax_vae.fitting.build import make_objective
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS
from flax_vae.objectives import OBJECTIVES
from flax_vae.objectives.base import apply_objective
from flax_vae.runs.models import make_model

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


def config_of(
    likelihood: str, prior: str, posterior: str, levels: int, objective: str, preset: str = "tutorial_dense"
) -> Config:
    """Return a small model of these parts, or raise UserError if they cannot be combined."""
    few = {"num_samples": 3} if OBJECTIVES.accepts(objective, "num_samples") else {}
    return Config(
        preset=preset,
        latent_dim=3,
        likelihood=likelihood,
        prior=prior,
        posterior=posterior,
        levels=levels,
        objective=objective,
        **few,
    )


def some_configs() -> list[Config]:
    """Return a configuration for each objective, with the other parts in turn, so that every part occurs."""
    found = []
    for i, objective in enumerate(OBJECTIVES):
        likelihood, prior, posterior = (list(parts)[i % len(parts)] for parts in (LIKELIHOODS, PRIORS, POSTERIORS))
        try:
            found.append(config_of(likelihood, prior, posterior, 1 + i % 2, objective))
        except UserError:
            found.append(config_of(likelihood, prior, "diagonal", 1, objective))
    return found


CONFIGS = some_configs()


def _times(tree: Any, factor: int) -> Any:
    """Return a copy with its floats multiplied, by NumPy, which compiles nothing."""
    return jax.tree.map(lambda p: p.copy() if p.dtype == KEY.dtype else jnp.asarray(np.asarray(p) * factor), tree)


every_config = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.likelihood}-{c.prior}-{c.posterior}-{c.levels}-{c.objective}"
)


@every_config
def test_parts_go_together(config: Config, images: np.ndarray) -> None:
    """Every likelihood, prior, posterior and objective in some combination, with one compilation.

    The model overfits a few images and makes new ones. Loss and gradient stay finite for all black and all white
    images, and for networks with large outputs.
    """
    batch = np.repeat(images[:8, ::4, ::4], 3, axis=-1)
    model = make_model(config, (7, 7, 3), batch)
    objective, tx = make_objective(config, 10, 100), optax.adam(3e-3)
    state, step = init_state(model, tx, KEY, (7, 7, 3)), make_train_step(model, objective, tx)
    distortions = []
    for _ in range(40):
        state, metrics = step(state, batch)
        distortions.append(float(metrics["distortion"]))
    assert np.median(distortions[-5:]) < np.median(distortions[:5])
    made = np.asarray(sample(model, state.params, KEY, 5, 0.7))
    assert made.shape == (5, 7, 7, 3)
    if config.likelihood == "continuous_bernoulli" or model.likelihood.pixel_levels:  # other densities have any mean
        assert ((made >= 0) & (made <= 1)).all()
    extremes = np.stack([np.zeros((7, 7, 3), np.uint8), np.full((7, 7, 3), 255, np.uint8)] * 4)

    @jax.jit
    def terms_and_gradient(params: Any) -> Any:
        def loss(params: Any) -> Any:
            terms = apply_objective(model, objective, params, extremes, KEY, 0)
            return terms["loss"].mean(), terms

        return jax.value_and_grad(loss, has_aux=True)(params)

    for factor in (1, 10):
        larger = {name: _times(state.params[name], factor) for name in ("posterior", "decoder")}
        terms, gradient = terms_and_gradient(state.params | larger)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((terms, gradient))), terms
    assert step._cache_size() == 1
    loaded = jax.eval_shape(lambda: init(make_model(config, (7, 7, 3)), KEY, (7, 7, 3)))  # from the configuration alone
    assert jax.tree.map(jnp.shape, loaded) == jax.tree.map(jnp.shape, state.params)


def test_seeds_train_side_by_side(images: np.ndarray) -> None:
    """Map two models over their keys by `jax.vmap`: each trains as it does alone."""
    config = CONFIGS[list(OBJECTIVES).index("dreg")]
    batch = images[:8, ::4, ::4]
    model, tx = make_model(config, (7, 7, 1)), make_optimizer("adam", 3e-3, 1000)
    step = make_train_step(model, ELBO(), tx)
    states = jax.vmap(lambda key: init_state(model, tx, key, (7, 7, 1)))(jax.random.split(KEY, 2))
    _, metrics = jax.vmap(step, in_axes=(0, None))(states, batch)
    alone = step(init_state(model, tx, jax.random.split(KEY, 2)[1], (7, 7, 1)), batch)[1]
    np.testing.assert_allclose(metrics["loss"][1], alone["loss"], rtol=1e-5)
    assert metrics["loss"][0] != metrics["loss"][1]


def test_a_vamp_prior_is_the_mean_of_the_posteriors_at_its_images(images: np.ndarray) -> None:
    """It starts at images of the training set; on top of a hierarchy it uses the top layer's posterior."""
    few = np.stack([images[0, ::4, ::4], images[1, ::4, ::4]])
    seen = jnp.asarray(few / 255, jnp.float32).clip(0.02, 0.98)
    for levels in (1, 2):
        model = make_model(Config(preset="tutorial_dense", latent_dim=3, prior="vamp", levels=levels), (7, 7, 1), few)
        params = init(model, KEY, (7, 7, 1))
        q = encode(model, params, seen)
        top = q if levels == 1 else q.top
        z = np.random.default_rng(0).normal(size=(10, 3))
        of_each = scipy.stats.norm(np.float64(top.loc), np.exp(np.float64(top.log_scale))).logpdf(z[:, None]).sum(-1)
        bound = bind(model, params)
        prior = bound.prior()
        found = (prior if levels == 1 else prior.top).log_prob(jnp.asarray(z, jnp.float32))
        start = np.random.default_rng(0).choice(2, 128)  # which of the two each pseudo-input starts as
        expected = scipy.special.logsumexp(of_each[:, start], axis=1) - np.log(128)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
