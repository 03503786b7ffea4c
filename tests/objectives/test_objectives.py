"""Objectives against a model whose evidence is known exactly, and against finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from known_models import IMAGES, gap, iwae, layered, layered_log_evidence, linear_gaussian, log_evidence

from flax_vae import (
    DIPVAE,
    ELBO,
    IWAE,
    STL,
    BetaTCVAE,
    Capacity,
    Cyclical,
    DReG,
    FreeBits,
    InfoVAE,
    Renyi,
    UserError,
    Warmup,
    bind,
    distortion,
    init,
    init_state,
    layer_rates,
    log_weights,
    make_optimizer,
    make_train_step,
    rate,
    tutorial_dense,
)
from flax_vae.objectives.binarized import DynamicallyBinarized
from flax_vae.objectives.regularised import _mmd
from flax_vae.objectives.terms import apply_objective

KEY = jax.random.key(0)


def terms(objective, vae, images=IMAGES, key=KEY, step=0):
    params = init(vae, KEY, images.shape[1:])
    return jax.jit(partial(apply_objective, vae, objective))(params, jnp.asarray(images), key, step)


TIGHT = {"own": iwae, "iwae": IWAE(), "iwae of 1": IWAE(1), "stl": STL(), "dreg": DReG(), "renyi": Renyi(0.3),
         "renyi at 1": Renyi(1.0), "renyi beyond": Renyi(-1.0)}  # fmt: skip


@pytest.mark.parametrize("objective", TIGHT.values(), ids=TIGHT.keys())
def test_with_the_exact_posterior_every_bound_is_the_evidence(objective) -> None:
    np.testing.assert_allclose(-terms(objective, linear_gaussian())["loss"], log_evidence(), rtol=1e-5)
    np.testing.assert_allclose(-terms(objective, layered())["loss"], layered_log_evidence(), rtol=1e-5)


def test_the_rates_of_layers_are_those_of_their_draws() -> None:
    """In closed form given the layers above, and on average log q - log p, layer by layer."""
    vae = layered(0.4)
    params = init(vae, KEY, (2, 2, 1))
    inference = jax.jit(lambda p: bind(vae, p).infer(jnp.asarray(IMAGES), KEY, 20_000))(params)
    assert [layer.z.shape for layer in inference.layers] == [(20_000, 5, 1)] * 2
    for (z, log_q, q, p), found in zip(inference.layers, layer_rates(inference), strict=True):
        np.testing.assert_allclose(log_q, q.log_prob(z), rtol=1e-4, atol=1e-4)
        log_ratio = np.float64(log_q - p.log_prob(z))
        error = log_ratio.std(0) / np.sqrt(20_000)
        assert found.shape == (5,)
        assert (np.abs(found - log_ratio.mean(0)) < 4 * error).all()


def test_elbo_is_the_evidence_less_the_divergence_from_the_exact_posterior() -> None:
    shift, draws = 0.3, jax.random.split(KEY, 20_000)
    vae = linear_gaussian(shift)
    elbo = jax.jit(jax.vmap(lambda key: terms(ELBO(), vae, key=key)["elbo"]))(draws)
    error = elbo.std(0) / np.sqrt(len(draws))
    assert (np.abs(elbo.mean(0) - (log_evidence() - gap(shift))) < 4 * error).all()


def test_more_samples_tighten_the_bound_from_below() -> None:
    vae, draws = linear_gaussian(0.3), jax.random.split(KEY, 5_000)
    single = -jax.jit(jax.vmap(lambda key: terms(ELBO(), vae, key=key)["loss"]))(draws).mean(0)
    several = -jax.jit(jax.vmap(lambda key: terms(iwae, vae, key=key)["loss"]))(draws).mean(0)
    assert (single < several).all()
    assert (several < log_evidence()).all()


def test_gradients_are_those_of_finite_differences() -> None:
    """In float64, along a random direction through all the parameters."""
    images = np.random.default_rng(0).uniform(size=(3, 4, 4, 1))
    vae, size = tutorial_dense((4, 4, 1)).clone(dtype="float64"), 1e-6
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), init(vae, KEY, (4, 4, 1)))
        rng = np.random.default_rng(1)
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

        @jax.jit
        def loss(along: jax.Array) -> jax.Array:
            moved = jax.tree.map(lambda p, d: p + along * d, params, direction)
            return apply_objective(vae, ELBO(beta=2.0), moved, jnp.asarray(images), KEY, 0)["loss"].mean()

        slope = jax.grad(loss)(jnp.asarray(0.0, jnp.float64))
        assert slope.dtype == jnp.float64
        np.testing.assert_allclose((loss(size) - loss(-size)) / (2 * size), slope, rtol=1e-6)


def test_beta_weighs_the_rate_and_nothing_else() -> None:
    plain, heavy = terms(ELBO(), linear_gaussian(0.3)), terms(ELBO(beta=4.0), linear_gaussian(0.3))
    np.testing.assert_allclose(heavy["loss"] - plain["loss"], 3 * plain["rate"], rtol=1e-4)
    np.testing.assert_array_equal(heavy["elbo"], plain["elbo"])


def drawn(vae, num_samples: int = 1, images=IMAGES, key=KEY):
    """The draw of the posterior that objectives make with this key."""
    return bind(vae, init(vae, KEY, images.shape[1:])).infer(jnp.asarray(images), key, num_samples)


def test_more_draws_of_the_importance_weighted_bound_are_averaged_in_log_space() -> None:
    log_w = np.float64(log_weights(drawn(linear_gaussian(0.3), 8), jnp.asarray(IMAGES)))
    expected = scipy.special.logsumexp(log_w, axis=0) - np.log(8)
    for objective in (IWAE(8), DReG(8), STL(8), Renyi(0.0, 8)):
        np.testing.assert_allclose(-terms(objective, linear_gaussian(0.3))["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.5, 0.9, -0.5])
def test_the_renyi_bound_lies_below_the_evidence_by_renyis_divergence(alpha: float) -> None:
    """Between normals of one covariance it is α times their KL; many samples make the bound exact."""
    found = -terms(Renyi(alpha, num_samples=200_000), linear_gaussian(0.3))["loss"]
    np.testing.assert_allclose(found, log_evidence() - alpha * gap(0.3), atol=0.03)


def gradients(objective, vae, count: int) -> dict:
    """Of the mean loss, for `count` keys: a stack of gradients."""
    params = init(vae, KEY, (2, 2, 1))

    def gradient(key):
        return jax.grad(lambda p: apply_objective(vae, objective, p, jnp.asarray(IMAGES), key, 0)["loss"].mean())(
            params
        )

    return jax.jit(jax.vmap(gradient))(jax.random.split(jax.random.key(7), count))


@pytest.mark.parametrize("model", [linear_gaussian, layered])
@pytest.mark.parametrize(("objective", "same_mean_as"), [(STL(1), IWAE(1)), (DReG(5), IWAE(5))])
def test_gradients_without_the_score_are_unbiased_and_less_noisy(objective, same_mean_as, model) -> None:
    """Of the posterior; the decoder's are those of the bound itself, draw by draw."""
    found, expected = (gradients(each, model(0.3), 20_000) for each in (objective, same_mean_as))
    for name in ("shift", "log_scale"):
        one, other = (np.float64(each["posterior"][name]) for each in (found, expected))
        error = np.sqrt((one.var(0) + other.var(0)) / len(one))
        assert (np.abs(one.mean(0) - other.mean(0)) < 4 * error).all()
        assert (one.var(0) < 0.8 * other.var(0)).all()
    np.testing.assert_allclose(found["decoder"]["weights"], expected["decoder"]["weights"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", [linear_gaussian, layered])
@pytest.mark.parametrize("objective", [STL(1), DReG(5)])
def test_their_noise_vanishes_with_the_gap(objective, model) -> None:
    """At the exact posterior every single gradient of the posterior is zero; the ELBO's is not."""
    found, of_elbo = (gradients(each, model(), 10)["posterior"] for each in (objective, IWAE(1)))
    for name in ("shift", "log_scale"):
        np.testing.assert_allclose(found[name], 0, atol=1e-5)
        assert np.abs(of_elbo[name]).max() > 0.1


def test_dreg_squares_the_normalised_weights_for_the_posterior() -> None:
    """Against its definition, written with the weights as constants."""

    def by_definition(vae, x, key, step):
        posterior = vae.encode(x)
        z = posterior.sample(key, (5,))

        def log_w(z):
            fixed = jax.lax.stop_gradient(posterior)
            return vae.decode(z).log_prob(x) + vae.prior().log_prob(z) - fixed.log_prob(z)

        weights = jax.lax.stop_gradient(jax.nn.softmax(log_w(z), axis=0))
        held = jax.lax.stop_gradient(z)
        for_decoder = (weights * log_w(held)).sum(0)
        for_posterior = (weights**2 * (log_w(z) - jax.lax.stop_gradient(log_w(z)))).sum(0)
        # the decoder's own part of the second term is taken out again
        twice = (weights**2 * log_w(held)).sum(0)
        return -(for_decoder + for_posterior - twice + jax.lax.stop_gradient(twice)), {}

    found, expected = (gradients(each, linear_gaussian(0.3), 3) for each in (DReG(5), by_definition))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected)


def test_capacity_leads_the_rate_along_its_schedule() -> None:
    objective = Capacity(Warmup(steps=10, weight=5.0), gamma=3.0)
    found = terms(objective, linear_gaussian(0.3), step=4)
    np.testing.assert_allclose(found["loss"], found["distortion"] + 3 * np.abs(found["rate"] - 2.0), rtol=1e-5)


@pytest.mark.parametrize("per", ["layer", "dimension"])
@pytest.mark.parametrize("nats", [0.0, 0.5, 100.0])
def test_bits_are_free_for_each_layer_or_dimension(per: str, nats: float) -> None:
    inference = drawn(linear_gaussian(0.3))
    q, mean_rate = inference.layers[0].posterior, rate(inference).mean()
    of_dimensions = 0.5 * (np.exp(2 * q.log_scale) + q.loc**2 - 1) - q.log_scale
    paid = max(nats, mean_rate) if per == "layer" else np.maximum(nats, of_dimensions.mean(0)).sum()
    found = terms(FreeBits(nats, per), linear_gaussian(0.3))
    np.testing.assert_allclose(found["loss"], distortion(inference, jnp.asarray(IMAGES)) + paid, rtol=1e-5)


def test_bits_are_free_layer_by_layer_in_a_hierarchy() -> None:
    """Between the rates of its two layers: only the higher one is paid."""
    layers = [float(each.mean()) for each in layer_rates(drawn(layered(0.4)))]
    nats = sum(layers) / 2
    found = terms(FreeBits(nats), layered(0.4))
    np.testing.assert_allclose(found["loss"], found["distortion"] + nats + max(layers), rtol=1e-5)


def test_total_correlation_by_brute_force() -> None:
    """All pairs of images one by one, with SciPy."""
    found = terms(BetaTCVAE(num_images=50, beta=4.0), linear_gaussian(0.3))
    inference = drawn(linear_gaussian(0.3))
    z, q = np.float64(inference.layers[0].z[0]), inference.layers[0].posterior
    for i in range(5):
        densities = scipy.stats.norm(np.float64(q.loc), np.exp(np.float64(q.log_scale))).pdf(z[i])  # "j d"
        log_q, log_q_dimensions = np.log(densities.prod(1).sum() / 250), np.log(densities.sum(0) / 250).sum()
        parts = {
            "mutual_information": np.log(densities[i].prod()) - log_q,
            "total_correlation": log_q - log_q_dimensions,
            "dimension_wise_kl": log_q_dimensions - scipy.stats.norm.logpdf(z[i]).sum(),
        }
        for name, value in parts.items():
            np.testing.assert_allclose(found[name][i], value, rtol=1e-4)
        expected = found["distortion"][i] + sum(parts.values()) + 3 * parts["total_correlation"]
        np.testing.assert_allclose(found["loss"][i], expected, rtol=1e-4)


def test_the_discrepancy_from_the_prior_by_brute_force() -> None:
    found = terms(InfoVAE(alpha=0.5, weight=20.0), linear_gaussian(0.3))
    draw_key, prior_key = jax.random.split(KEY)
    inference = drawn(linear_gaussian(0.3), key=draw_key)
    (layer,) = inference.layers
    z, p = np.asarray(layer.z[0]), np.asarray(layer.prior.sample(prior_key, (5,)))
    expected = 0.0
    for i in range(5):
        for j in range(5):
            one, other, across = (np.exp(-((a[i] - b[j]) ** 2).sum() / 3) for a, b in ((z, z), (p, p), (z, p)))
            expected += (i != j) * (one + other) / 20 - 2 * across / 25
    np.testing.assert_allclose(found["mmd"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["loss"], found["distortion"] + 0.5 * found["rate"] + 19.5 * expected, rtol=1e-5)


def test_the_discrepancy_of_the_prior_from_itself_is_zero_on_average() -> None:
    z, p = jax.random.normal(KEY, (2, 4_000, 16, 3))
    found = jax.vmap(_mmd)(z, p)
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(4_000)


@pytest.mark.parametrize("of", ["means", "latents"])
def test_covariances_are_penalised(of: str) -> None:
    found = terms(DIPVAE(of, off_diagonal=3.0, diagonal=7.0), linear_gaussian(0.3))
    q = drawn(linear_gaussian(0.3)).layers[0].posterior
    covariance = np.cov(np.float64(q.loc).T, bias=True)
    if of == "latents":
        covariance += np.diag(np.exp(2 * np.float64(q.log_scale)).mean(0))
    apart = covariance[~np.eye(3, dtype=bool)]
    expected = 3 * (apart**2).sum() + 7 * ((np.diag(covariance) - 1) ** 2).sum()
    np.testing.assert_allclose(found["penalty"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["loss"], found["distortion"] + found["rate"] + expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (Warmup(steps=4), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]),
        (Cyclical(steps=2, period=4, cycles=2, weight=3.0), [0, 1.5, 3, 3, 0, 1.5, 3, 3, 3, 3]),
    ],
)
def test_schedules(schedule, weights: list[float]) -> None:
    np.testing.assert_allclose([schedule(jnp.asarray(step)) for step in range(10)], weights, rtol=1e-6)
    vae = linear_gaussian(0.3)
    for step in (0, 1):
        found = terms(ELBO(schedule), vae, step=step)
        np.testing.assert_allclose(found["loss"], found["distortion"] + weights[step] * found["rate"], rtol=1e-5)


def test_pixels_are_drawn_anew_with_their_value_as_probability() -> None:
    def pixels(vae, x, key, step):
        return x.sum((1, 2, 3)), {f"pixel {i}": x.reshape(len(x), -1)[:, i] for i in range(4)}

    images = np.array([0.0, 1.0, 0.3, 0.8], np.float32).reshape(1, 2, 2, 1)
    vae, keys = linear_gaussian(), jax.random.split(KEY, 4_000)
    found = jax.vmap(lambda key: terms(DynamicallyBinarized(pixels), vae, images, key))(keys)
    drawn = np.stack([found[f"pixel {i}"][:, 0] for i in range(4)])
    assert np.isin(drawn, (0, 1)).all()
    np.testing.assert_allclose(drawn.mean(1), images.ravel(), atol=0.03)
    assert DynamicallyBinarized(FreeBits()).whole_batch
    assert not DynamicallyBinarized(ELBO()).whole_batch


def test_objectives_are_values() -> None:
    assert ELBO(Warmup(10)) == ELBO(Warmup(10))
    assert hash(ELBO(2.0)) == hash(ELBO(2.0))
    assert repr(ELBO(beta=2.0)) == "ELBO(beta=2.0)"


def test_rate_averages_over_draws_where_there_is_no_closed_form() -> None:
    class Opaque:
        """The same normal, of a kind that the package has not met."""

        def __init__(self, inner):
            self.log_prob = inner.log_prob

    vae = linear_gaussian(0.3)
    inference = bind(vae, init(vae, KEY, (2, 2, 1))).infer(jnp.asarray(IMAGES), KEY, num_samples=20_000)
    (layer,) = inference.layers
    hidden = inference._replace(layers=(layer._replace(posterior=Opaque(layer.posterior)),))
    np.testing.assert_allclose(rate(hidden), rate(inference), rtol=0.05)


def mean_over_batch(vae, x, key, step):
    loss, metrics = ELBO()(vae, x, key, step)
    return loss.mean(), metrics


def names_a_metric_loss(vae, x, key, step):
    loss, _ = ELBO()(vae, x, key, step)
    return loss, {"loss": 0 * loss}


def loss_alone(vae, x, key, step):
    return ELBO()(vae, x, key, step)[0]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (mean_over_batch, r"mean_over_batch returned loss of shape \(\) for 5 images"),
        (
            names_a_metric_loss,
            "names_a_metric_loss returned a metric named loss, which the train step reports",
        ),
        (loss_alone, r"loss_alone must return \(loss, metrics\)"),
    ],
)
def test_an_objective_of_the_wrong_shape_is_named(objective, message: str) -> None:
    vae, tx = linear_gaussian(), make_optimizer("adam", 1e-3, 10)
    step = make_train_step(vae, objective, tx)
    with pytest.raises(UserError, match=message):
        step(init_state(vae, tx, KEY, (2, 2, 1)), jnp.asarray(IMAGES))
