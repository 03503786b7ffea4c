"""Settings of JAX in the program around the package.

The kind: a function whose result depends on a setting that only changes how JAX traces, or that refuses to run under
it: types that follow `jax_enable_x64`, operands that strict promotion refuses, a key that is used twice, a constant or
an array of NumPy that a guard does not let onto the device.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_directories import untimed

from flax_vae import (
    VAE,
    Config,
    Normal,
    Run,
    UserError,
    bind,
    decode,
    distortion,
    encode,
    evaluate,
    fit,
    init,
    init_state,
    interpolate,
    kl_divergence,
    ladder,
    latent_grid,
    load_run,
    log_likelihood,
    log_weights,
    make_optimizer,
    make_train_step,
    rate,
    reconstruct,
    reconstruct_layers,
    residual_conv,
    resume,
    sample,
    sample_gmm,
    traverse,
    tutorial_conv,
    tutorial_dense,
    write_explorer,
)
from flax_vae.compression import compress, decompress
from flax_vae.evaluation.plan import Plan
from flax_vae.evaluation.samples import MODES, Request
from flax_vae.metrics.annealed import annealed_log_likelihood
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS
from flax_vae.nn.module import Module
from flax_vae.objectives import OBJECTIVES
from flax_vae.runs.models import make_model
from flax_vae.system.settings import by_default

SHAPE = (8, 8, 1)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)
SAME = {
    "jax_enable_x64": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_debug_key_reuse": True,
    "jax_transfer_guard": "disallow",
}
OTHERS = {
    "precision": {"jax_default_matmul_precision": "bfloat16"},
    "prng": {"jax_default_prng_impl": "rbg"},
    "nans": {"jax_debug_nans": True},
    "eager": {"jax_disable_jit": True},
}
USES: dict[str, Callable[[Path], Any]] = {}


@contextmanager
def settings(values: dict[str, Any]) -> Iterator[None]:
    """Change settings of the process, also in the threads that it starts."""
    before = {name: getattr(jax.config, name) for name in values}
    try:
        for name, value in values.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@cache
def trained(make: Callable[..., nn.Module] = tutorial_dense, **arguments: Any) -> tuple[nn.Module, Any]:
    """Return a model with its initial parameters, both the same in all tests."""
    model = make(SHAPE, **arguments)
    return model, init(model, key(0), SHAPE)


def key(seed: int) -> jax.Array:
    """Return a key, which a program makes with the guard of transfers lifted."""
    with jax.transfer_guard("allow"):
        return jax.random.key(seed)


def small_ladder(shape: tuple[int, int, int]) -> nn.Module:
    return ladder(shape, widths=(4, 4), depths=(1, 1), channels=2)


def small_residual(shape: tuple[int, int, int]) -> nn.Module:
    return residual_conv(shape, features=(4, 4))


def use(function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    USES[function.__name__] = function
    return function


@use
def initial_parameters(_: Path) -> Any:
    makers = tutorial_dense, tutorial_conv, small_ladder, small_residual
    return [init(make(SHAPE), key(0), SHAPE) for make in makers]


@use
def samples(_: Path) -> Any:
    drawn = sample(*trained(), key(1), 3, 0.7, None, key(2))
    grid = latent_grid(*trained(), 3), traverse(*trained(), IMAGES[0], 3), decode(*trained(), np.zeros((2, 2)))
    return drawn, sample(*trained(small_ladder), key(1), 3, 0.7), grid


@use
def images_of_images(_: Path) -> Any:
    """The second set of images is in float64, as NumPy computes it."""
    posterior, again = encode(*trained(), IMAGES[:3]), encode(*trained(), IMAGES[:3] / 255)
    ways = reconstruct(*trained(), IMAGES[:3], key(1)), interpolate(*trained(), IMAGES[0], IMAGES[1], 4)
    layers = reconstruct_layers(*trained(small_ladder), IMAGES[:2], key(1))
    return posterior.mean(), posterior.sample(key(3)), again.mean(), ways, layers


@use
def bounds(_: Path) -> Any:
    return (
        log_likelihood(*trained(), IMAGES[:2], key(1), 30),
        annealed_log_likelihood(*trained(), IMAGES[:2], key(1), 4, 3),
    )


@use
def mixture(_: Path) -> Any:
    return sample_gmm(*trained(), IMAGES, key(1), 3, components=2)


@use
def files(_: Path) -> Any:
    binary = (IMAGES > 127).astype(np.uint8) * 255
    content = compress(*trained(), binary[:3])
    np.testing.assert_array_equal(decompress(*trained(), content)[0], binary[:3])
    return np.frombuffer(content, np.uint8)


@use
def pretrained(_: Path) -> Any:
    """A ladder with autoregressive pixels."""
    run = load_run("pretrained:grey")
    return run.params, log_likelihood(run.model, run.params, run.examples[:1], key(0), 2)


@use
def distributions(_: Path) -> Any:
    """With a temperature that float32 rounds."""
    ones, zeros = np.ones((5, 2), np.float32), np.zeros(2, np.float32)
    q, p = (Normal(*jax.device_put(moments)) for moments in ((ones, -ones), (zeros, zeros)))
    z = q.tempered(0.3).sample(key(0), (3,))
    return z, q.log_prob(z), p.log_prob(z), kl_divergence(q, p)


def losses(model: nn.Module, params: Any, x: jax.Array, key: jax.Array) -> Any:
    bound = bind(model, params)
    inference = bound.infer(x, key, 3, 0.7)
    (layer, *_) = inference.layers
    densities = layer.posterior.mean(), layer.prior.log_prob(layer.z), log_weights(inference, x)
    return (distortion(inference, x) + rate(inference)).mean(), densities


@use
def in_a_program_of_the_users(_: Path) -> Any:
    """Trace bound models in a function that JAX compiles and differentiates under the settings."""
    x = jax.device_put(IMAGES[:2].astype(np.float32) / np.float32(255))
    return [
        jax.jit(jax.value_and_grad(losses, argnums=1, has_aux=True), static_argnums=0)(model, params, x, key(4))
        for model, params in (trained(), trained(small_ladder))
    ]


@cache
def step_of(objective: str, optimizer: str) -> tuple[Any, Any]:
    tx = make_optimizer(optimizer, 1e-3, 10, 2, "cosine", 1.0)
    part = OBJECTIVES.make(objective, num_images=40, total_steps=10)
    return tx, make_train_step(trained()[0], part, tx, 0.9, skip_norm=1e6)


@use
def steps(_: Path) -> Any:
    pairs = [(objective, "adam") for objective in OBJECTIVES] + [("elbo", "muon")]
    results = []
    for objective, optimizer in pairs:
        tx, step = step_of(objective, optimizer)
        state, _ = step(init_state(trained()[0], tx, key(0), SHAPE, ema=True), IMAGES[:8])
        results.append(step(state, IMAGES[:8]))
    return results


def records(run: Run) -> str:
    return json.dumps(untimed(run.metrics))


def config(folder: Path) -> Config:
    path = folder.parent / "images.npz"
    labels = np.arange(40) % 2
    np.savez(path, x_train=IMAGES, y_train=labels, x_test=IMAGES[:20], y_test=labels[:20])
    return Config(dataset=str(path), preset="tutorial_dense", epochs=2, batch_size=20)


@use
def training(folder: Path) -> Any:
    """Train, train the second epoch once more from the first checkpoint, and evaluate."""
    run = fit(config(folder), folder / "run")
    shutil.rmtree(folder / "run" / "checkpoints" / "4")
    again = resume(folder / "run")
    assert records(again) == records(run)
    figures = evaluate(folder / "run", Plan(num_samples=(10,), num_images=4))
    of_run = again.sample(3), again.encode().mean(), again.reconstruct(), again.log_likelihood(num_samples=10)
    samples = [MODES.make(mode, run=again, request=Request(3), sampler="prior")[0] for mode in MODES]
    page = write_explorer(again, folder / "page.html").read_text().replace(str(folder), "")
    return run.params, again.params, records(run), json.dumps(figures, default=str), of_run, samples, page


def assert_same_bits(results: Any, expected: Any) -> None:
    assert jax.tree.structure(results) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        if isinstance(one, jax.Array) and jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(one, other, strict=True)


@pytest.mark.quick(1)
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("name", sorted(USES, key="samples".__ne__))
def test_results_have_the_same_bits(name: str, tmp_path: Path) -> None:
    at_default = jax.device_get(USES[name](tmp_path / "default"))
    changed = dict(SAME)
    if name == "training" and jax.__version_info__ < (0, 11):
        del changed["jax_debug_key_reuse"]  # JAX 0.8 takes a key that is placed on devices for a key that is used
    with settings(changed):
        results = USES[name](tmp_path / "changed")
    assert_same_bits(jax.device_get(results), at_default)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.slow
@pytest.mark.parametrize("setting", OTHERS)
def test_other_settings_run(setting: str, tmp_path: Path) -> None:
    with settings(OTHERS[setting]):
        name = "mixture" if setting == "eager" else "training"
        USES[name](tmp_path / name)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_run_is_resumed_with_its_own_random_numbers(tmp_path: Path) -> None:
    """Keys follow from the seed, so that other numbers would continue another training."""
    fit(config(tmp_path / "run"), tmp_path / "run")
    with settings(OTHERS["prng"]), pytest.raises(UserError, match="jax_default_prng_impl is rbg: set it to threefry"):
        resume(tmp_path / "run", epochs=3)


def test_an_assertion_of_another_kind_keeps_its_traceback() -> None:
    """JAX raises an AssertionError for a missing device, which the package reports in one line."""

    @by_default
    def fail() -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        fail()


PARTS = {
    f"{kind} {name}": {kind: name}
    for kind, parts in {"posterior": POSTERIORS, "prior": PRIORS, "likelihood": LIKELIHOODS}.items()
    for name in parts
} | {"levels": {"levels": 2}}


@pytest.mark.quick(1)
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_every_part_is_traced_as_by_default(part: dict[str, Any]) -> None:
    """The parts are traced inside a program of the user's; only shapes are computed."""
    model = make_model(Config(preset="gated_mlp", **part), SHAPE)
    params = jax.eval_shape(lambda: init(model, jax.random.key(0), SHAPE))
    x, key = jax.ShapeDtypeStruct((2, *SHAPE), jnp.float32), jax.eval_shape(lambda: jax.random.key(0))

    def shapes() -> Any:
        return jax.eval_shape(jax.grad(partial(losses, model), has_aux=True), params, x, key)

    at_default = shapes()
    with settings(SAME):
        assert shapes() == at_default


def test_every_module_is_traced_as_by_default() -> None:
    """A module that does not extend the package's base class follows the settings of the program."""

    def descendants(cls: type) -> set[type]:
        return {cls}.union(*map(descendants, cls.__subclasses__()))

    modules = {cls for cls in descendants(nn.Module) if cls.__module__.startswith("flax_vae.")}
    assert VAE in modules
    assert all(issubclass(cls, Module) for cls in modules)
