"""Every part goes with every other."""

from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_vae import ELBO, Config, bind, init_state, make_optimizer, make_train_step
from flax_vae.assemble import make_objective, make_vae
from flax_vae.config import OBJECTIVES
from flax_vae.presets import channel_means

KEY = jax.random.key(0)
LIKELIHOODS = get_args(get_type_hints(Config)["likelihood"])
CONFIGS = [
    Config(
        preset="tutorial_dense",
        latent_dim=3,
        likelihood=LIKELIHOODS[i % len(LIKELIHOODS)],
        prior=("normal", "mixture", "flow")[i % 3],
        posterior="full" if i % 2 and objective not in ("beta_tcvae", "dip_vae_ii") else "diagonal",
        objective=objective,
        num_samples=3,
    )
    for i, objective in enumerate(OBJECTIVES)
]
every_config = pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda c: f"{c.likelihood}-{c.prior}-{c.posterior}-{c.objective}"
)


@every_config
def test_parts_go_together(config: Config, images: np.ndarray) -> None:
    """Every likelihood, prior, posterior and objective in some combination, with one compilation.

    Images are learned by heart; all black and all white ones, and networks whose every output is large, give a loss and
    a step that are finite; images are made.
    """
    batch = np.repeat(images[:8, ::4, ::4], 3, axis=-1)
    vae = make_vae(config, (7, 7, 3), channel_means(batch))
    objective, tx = make_objective(config, 10, 100)(config.beta), make_optimizer("adam", 3e-3, 1000)
    state, step = init_state(vae, tx, KEY, (7, 7, 3)), make_train_step(vae, objective, tx)
    distortions = []
    for _ in range(40):
        state, metrics = step(state, batch)
        distortions.append(float(metrics["distortion"]))
    assert np.mean(distortions[-5:]) < np.mean(distortions[:5])
    made = bind(vae, state.params).generate(KEY, 5, 0.7).mean()
    assert made.shape == (5, 7, 7, 3)
    if "normal" not in config.likelihood:  # a normal's mean may lie anywhere
        assert ((made >= 0) & (made <= 1)).all()
    extremes = np.stack([np.zeros((7, 7, 3), np.uint8), np.full((7, 7, 3), 255, np.uint8)] * 4)
    large = {name: jax.tree.map(lambda p: 10 * p, state.params[name]) for name in ("posterior", "decoder")}
    for params in (state.params, state.params | large):
        after, metrics = step(jax.tree.map(jnp.copy, state.replace(params=params)), extremes)
        del metrics["gradient_norm"]  # its square may overflow
        assert np.isfinite(list(map(float, metrics.values()))).all(), metrics
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
    assert step._cache_size() == 1


def test_seeds_train_side_by_side(images: np.ndarray) -> None:
    """`jax.vmap` over keys: two models, each its own."""
    batch = images[:8, ::4, ::4]
    vae, tx = make_vae(CONFIGS[0], (7, 7, 1)), make_optimizer("adam", 3e-3, 1000)
    step = make_train_step(vae, ELBO(), tx)
    states = jax.vmap(lambda key: init_state(vae, tx, key, (7, 7, 1)))(jax.random.split(KEY, 2))
    _, metrics = jax.vmap(step, in_axes=(0, None))(states, batch)
    alone = step(init_state(vae, tx, jax.random.split(KEY, 2)[1], (7, 7, 1)), batch)[1]
    np.testing.assert_allclose(metrics["loss"][1], alone["loss"], rtol=1e-5)
    assert metrics["loss"][0] != metrics["loss"][1]
