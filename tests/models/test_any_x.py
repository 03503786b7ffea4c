"""Everything that trains, measures and samples, for x of any kind: vectors, counts, views, and missing values.

The kind of fault is a function that assumes images "h w c", or that looks at a missing value.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_views import SHAPES, TwoViews

from flax_vae import (
    ELBO,
    VAE,
    Batch,
    DiagonalNormal,
    Normal,
    NormalLikelihood,
    PoissonLikelihood,
    StandardNormal,
    UserError,
    bind,
    decode,
    encode,
    init,
    init_state,
    interpolate,
    latent_grid,
    log_likelihood,
    make_train_step,
    reconstruct,
    sample,
    traverse,
)
from flax_vae.batches import blank
from flax_vae.metrics.annealed import annealed_log_likelihood
from flax_vae.metrics.latents import elbo_surgery, posterior_means
from flax_vae.metrics.objective_means import make_evaluate
from flax_vae.metrics.per_example import per_example_statistics
from flax_vae.models.binding import model_of
from flax_vae.objectives import OBJECTIVES
from flax_vae.objectives.base import apply_objective

KEY, RNG, N = jax.random.key(0), np.random.default_rng(0), 6


def vectors(likelihood: Any) -> VAE:
    return VAE(nn.Dense(5), DiagonalNormal(2), StandardNormal(2), nn.Dense(7), likelihood)


COUNTS = RNG.poisson(3.0, (N, 7))
VIEWS = {"image": RNG.random((N, 3, 2, 1)) > 0.5, "counts": RNG.poisson(2.0, (N, 5)).astype(np.float32)}


def half(x: Any) -> Any:
    return jax.tree.map(lambda leaf: RNG.random(leaf.shape) > 0.5, x)


def with_gaps(x: Any) -> Batch:
    """Return x with about half of its values missing: NaN, or 0 if the dtype has no NaN."""
    mask = half(x)

    def fill(leaf: np.ndarray, observed: np.ndarray) -> np.ndarray:
        return np.where(observed, leaf, np.nan if leaf.dtype.kind == "f" else 0).astype(leaf.dtype)

    return Batch(jax.tree.map(fill, x, mask), mask=mask)


CASES: dict[str, tuple[nn.Module, Any, Any]] = {
    "counts": (vectors(PoissonLikelihood()), (7,), COUNTS),
    "normal vectors, half of them missing": (
        vectors(NormalLikelihood()),
        (7,),
        with_gaps(RNG.normal(size=(N, 7)).astype(np.float32)),
    ),
    "an image and a vector": (TwoViews(), SHAPES, VIEWS),
    "an image and a vector, half missing": (TwoViews(), SHAPES, with_gaps(VIEWS)),
}
USES: dict[str, Callable[[nn.Module, Any, Any], Any]] = {
    "encode": lambda model, params, x: encode(model, params, x).mean(),
    "reconstruct": lambda model, params, x: reconstruct(model, params, x, KEY),
    "log_likelihood": lambda model, params, x: log_likelihood(model, params, x, KEY, 30),
    "annealed_log_likelihood": lambda model, params, x: annealed_log_likelihood(model, params, x, KEY, 2, 3),
    "elbo_surgery": lambda model, params, x: elbo_surgery(model, params, x, KEY),
    "posterior_means": lambda model, params, x: posterior_means(model, params, x, 2),
    "per_example_statistics": lambda model, params, x: per_example_statistics(model, params, x, KEY, 2),
    "make_evaluate": lambda model, params, x: make_evaluate(model, ELBO(), 4)(params, x, KEY, 0),
} | {
    f"the objective {name}": lambda model, params, x, name=name: apply_objective(
        model, OBJECTIVES.make(name, num_images=N, total_steps=10), params, x, KEY, 0
    )
    for name in OBJECTIVES
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Any, Any, Any]:
    """Return a model, its parameters after one step of training, the shape of an example, and a batch."""
    model, shape, x = CASES[request.param]
    tx = optax.adam(1e-2)
    state = init_state(model, tx, KEY, shape)
    before = jax.tree.map(np.array, state.params)
    state, metrics = make_train_step(model, ELBO(), tx, microbatch_size=3)(state, x)
    assert metrics["skipped"] == 0
    jax.tree.map(lambda old, new: np.testing.assert_array_less(0, np.abs(old - new).max()), before, state.params)
    return model, state.params, shape, x


def assert_finite(tree: Any) -> None:
    for leaf in jax.tree.leaves(tree):
        assert not np.isnan(leaf).any()


@pytest.mark.quick(len(USES))
@pytest.mark.parametrize("use", USES)
def test_functions_of_x_take_x_of_any_kind(case: tuple, use: str) -> None:
    model, params, _, x = case
    assert_finite(USES[use](model, params, x))


@pytest.mark.quick(1)
def test_results_have_the_structure_of_x(case: tuple) -> None:
    model, params, shape, x = case
    z, batch = np.zeros((4, 2), np.float32), x if isinstance(x, Batch) else Batch(x)
    one = jax.tree.map(lambda leaf: np.nan_to_num(leaf[0]), batch.x)
    results = {
        (3,): (sample(model, params, KEY, 3), sample(model, params, KEY, 3, pixel_key=KEY)),
        (N,): (reconstruct(model, params, x, KEY, KEY),),
        (4,): (decode(model, params, z), interpolate(model, params, one, one, 4)),
        (5, 5): (latent_grid(model, params, 5),),
        (2, 3): (traverse(model, params, one, 3),),
    }
    for lead, trees in results.items():
        for tree in trees:
            assert jax.tree.map(np.shape, tree) == jax.tree.map(np.shape, blank(shape, lead))


def test_initial_parameters_need_a_shape_or_an_array() -> None:
    """A shape may be that of an array, and may name the views."""
    for shape in (SHAPES, jax.eval_shape(lambda: {name: jnp.zeros(s) for name, s in SHAPES.items()})):
        params = init(TwoViews(), KEY, shape)
        assert jax.tree.map(np.shape, params["encoder"]) == {"kernel": (11, 4), "bias": (4,)}


def test_counts_are_read_as_numbers() -> None:
    """Counts are the same as integers of any type and as floats; pixels of type uint8 are scaled."""
    model, shape, _ = CASES["counts"]
    params = init(model, KEY, shape)
    means = [encode(model, params, COUNTS.astype(kind)).mean() for kind in (np.uint8, np.int32, np.float32)]
    for mean in means[1:]:
        np.testing.assert_array_equal(mean, means[0])
    other = encode(model.clone(likelihood=NormalLikelihood()), params, COUNTS.astype(np.uint8)).mean()
    assert not np.allclose(other, means[0])


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("x", [COUNTS - 5, COUNTS + 0.5, np.where(COUNTS > 2, np.nan, COUNTS)])
def test_values_that_are_no_counts_are_refused(x: np.ndarray) -> None:
    model, shape, _ = CASES["counts"]
    with pytest.raises(UserError, match=r"^x holds .*; pass whole numbers from 0"):
        encode(model, init(model, KEY, shape), x)


@pytest.mark.usefixtures("unchecked_types")
def test_a_decoder_of_another_shape_than_x_is_refused() -> None:
    """The decoder returns vectors for images, images for vectors, or vectors of another length."""
    model, _, _ = CASES["counts"]
    for shape in ((6,), (7, 1, 1)):
        encoder = nn.Sequential([lambda x: x.reshape(x.shape[0], -1), nn.Dense(5)])
        with pytest.raises(UserError, match=r"The decoder returned an array of shape \(7,\) for each latent"):
            init(model.clone(encoder=encoder), KEY, shape)


def test_a_missing_value_changes_nothing() -> None:
    """No result or gradient depends on the value in place of a missing one, not even on NaN."""
    for name in ("normal vectors, half of them missing", "an image and a vector, half missing"):
        model, shape, batch = CASES[name]
        params = init(model, KEY, shape)
        x = jax.tree.map(lambda x, observed: np.where(observed, x, 7).astype(x.dtype), batch.x, batch.mask)
        filled = replace(batch, x=x)

        def loss(params: Any, batch: Batch, model: nn.Module = model) -> jax.Array:
            return apply_objective(model, OBJECTIVES.make("iwae"), params, batch, KEY, 0)["loss"].mean()

        results = [jax.jit(jax.value_and_grad(loss))(params, some) for some in (batch, filled)]
        jax.tree.map(np.testing.assert_array_equal, *results)
        assert_finite(results)


@pytest.mark.usefixtures("unchecked_types")
def test_masks_that_do_not_fit_are_refused() -> None:
    model, shape, batch = CASES["normal vectors, half of them missing"]
    params = init(model, KEY, shape)
    x = np.zeros((N, 7), np.float32)
    shaped = "`mask` must be bool and have the shape of x"
    typed = "`mask` must be bool, True where x was observed, not float32"
    masks = [(batch.mask[:, :1], shaped), ({"x": batch.mask}, shaped), (batch.mask.astype(np.float32), typed)]
    for mask, message in masks:
        for use in (encode, jax.jit(encode, static_argnums=0)):  # on the host, and while tracing
            with pytest.raises(UserError, match=message):
                use(model, params, Batch(x, mask=mask))
    with pytest.raises(UserError, match="pass finite floats"):  # NaN where it was observed
        encode(model, params, replace(batch, mask=np.ones_like(batch.mask)))


@pytest.mark.usefixtures("unchecked_types")
def test_an_objective_that_compares_x_takes_complete_examples_only() -> None:
    """A function declares `needs` as an attribute, as a class does."""

    def squared_error(model: Any, x: jax.Array, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict]:
        return jnp.square(model.infer(x, key).likelihood.mean()[0] - x).sum(-1), {}

    squared_error.needs = ("complete",)  # type: ignore[attr-defined]
    model, shape, batch = CASES["normal vectors, half of them missing"]
    params = init(model, KEY, shape)
    assert apply_objective(model, squared_error, params, np.nan_to_num(batch.x), KEY, 0)["loss"].shape == (N,)
    with pytest.raises(UserError, match="`objective` squared_error compares all values of x"):
        apply_objective(model, squared_error, params, batch, KEY, 0)


@pytest.mark.usefixtures("unchecked_types")
def test_a_model_that_does_not_declare_masks_takes_none() -> None:
    """Such a model would learn from the zeros in place of missing values."""

    _, shape, batch = CASES["an image and a vector, half missing"]
    model = nn.Sequential([nn.Dense(3)])
    with pytest.raises(UserError, match="A batch with a mask needs a model with a likelihood of observed values"):
        apply_objective(model, ELBO(), init(TwoViews(), KEY, shape), batch, KEY, 0)


class MaskEncoder(VAE):
    """An encoder of x together with its mask; without a mask, x counts as complete."""

    def features(self, x: jax.Array) -> jax.Array:
        mask = self.mask()
        return self.encoder(jnp.concatenate([x, jnp.ones_like(x) if mask is None else mask.astype(x.dtype)], axis=-1))


class PseudoInputs(nn.Module):
    """A prior that is the posterior at one learned vector."""

    @nn.compact
    def __call__(self) -> Normal:
        u = self.param("pseudo_input", nn.initializers.ones, (1, 7))
        q = model_of(self).encode(u)
        return Normal(q.loc[0], q.log_scale[0])


def test_a_prior_encodes_its_own_inputs_without_a_mask() -> None:
    """The mask belongs to the batch, and does not fit pseudo-inputs."""
    model = MaskEncoder(nn.Dense(5), DiagonalNormal(2), PseudoInputs(), nn.Dense(7), NormalLikelihood())
    params, batch = init(model, KEY, (7,)), CASES["normal vectors, half of them missing"][2]
    plain, masked = bind(model, params), bind(model, params, mask=batch.mask)
    np.testing.assert_array_equal(masked.prior().loc, plain.prior().loc)
    assert np.isfinite(apply_objective(model, ELBO(), params, batch, KEY, 0)["loss"]).all()
