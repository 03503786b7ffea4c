"""Networks that users bring: what works, and the one line that names what does not.

The kind of fault is a network some of whose parameters silently stay untrained, or that fails deep inside JAX.
"""

from collections.abc import Callable
from typing import Any

import equinox
import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

from flax_vae import (
    ELBO,
    VAE,
    BernoulliLikelihood,
    DiagonalNormal,
    NormalLikelihood,
    PerPixelNormalLikelihood,
    StandardNormal,
    UserError,
    from_equinox,
    from_nnx,
    init,
    init_state,
    make_optimizer,
    make_train_step,
    sample,
    with_train,
)

pytestmark = pytest.mark.usefixtures("unchecked_types")
KEY, SHAPE = jax.random.key(0), (4, 6, 3)


def flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1)


def image(h: jax.Array) -> jax.Array:
    return h.reshape(-1, *SHAPE)


def make_vae(**parts: Any) -> VAE:
    encoder, decoder = nn.Sequential([flat, nn.Dense(7)]), nn.Sequential([nn.Dense(72), image])
    defaults = {"posterior": DiagonalNormal(2), "prior": StandardNormal(2), "likelihood": BernoulliLikelihood()}
    return VAE(**({"encoder": encoder, "decoder": decoder} | defaults | parts))


def assert_trains(model: VAE) -> None:
    """One step of training changes every parameter, and the model samples."""
    tx = make_optimizer("adam", 1e-2, 10)
    state = init_state(model, tx, KEY, SHAPE)
    before = jax.tree.map(np.array, state.params)
    images = jax.random.uniform(KEY, (8, *SHAPE))
    state, metrics = make_train_step(model, ELBO(), tx)(state, images)
    assert metrics["skipped"] == 0
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state.params), strict=True):
        assert not np.array_equal(old, new)
    assert sample(model, state.params, KEY, 3).shape == (3, *SHAPE)


class Config(nn.Module):
    """A network with a dictionary and nested lists as fields."""

    sizes: dict[str, int]
    layers: list

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers[0]:
            x = layer(x)
        return nn.Dense(self.sizes["width"])(x)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "encoder",
    [
        nn.Sequential([flat, nn.Dense(7), nn.Sequential([nn.gelu, nn.Dense(3)])]),
        Config({"width": 5}, [[flat, nn.Dense(4)]]),
        nn.Sequential([flat, nn.WeightNorm(nn.Dense(7))]),
        nn.Sequential([flat, nn.Dense(7), nn.Dropout(0.5, deterministic=True)]),
    ],
)
def test_fields_may_be_lists_and_dictionaries(encoder: nn.Module) -> None:
    assert_trains(make_vae(encoder=encoder))


class NNXNetwork(nnx.Module):
    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(inputs, 8, rngs=rngs), nnx.Linear(8, outputs, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        first, second = self.layers
        return second(nnx.gelu(first(flat(x))))


class NNXDecoder(NNXNetwork):
    def __call__(self, z: jax.Array) -> jax.Array:
        return image(super().__call__(z))


class EquinoxNetwork(equinox.Module):
    mlp: equinox.nn.MLP
    shape: tuple[int, ...] = equinox.field(static=True)

    def __init__(self, inputs: int, shape: tuple[int, ...], *, key: jax.Array) -> None:
        self.mlp = equinox.nn.MLP(inputs, int(np.prod(shape)), 8, 1, activation=jax.nn.gelu, key=key)
        self.shape = shape

    def __call__(self, x: jax.Array) -> jax.Array:
        """One example, as is usual in Equinox."""
        return self.mlp(x.ravel()).reshape(self.shape)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "parts",
    [
        {"encoder": from_nnx(NNXNetwork, 72, outputs=5), "decoder": from_nnx(NNXDecoder, 2, 72)},
        {"encoder": from_equinox(EquinoxNetwork, 72, (5,)), "decoder": from_equinox(EquinoxNetwork, 2, shape=SHAPE)},
    ],
)
def test_networks_of_other_libraries_train(parts: dict[str, nn.Module]) -> None:
    assert_trains(make_vae(**parts))


def test_an_adapted_network_computes_its_librarys_function_of_parameters_named_by_their_place() -> None:
    x = jax.random.normal(KEY, (3, 72))
    networks = {
        "layers.{}.kernel": (from_nnx(NNXNetwork, 72, 5), "layers.{}.bias", lambda kernel: kernel),
        "mlp.layers.{}.weight": (from_equinox(EquinoxNetwork, 72, (5,)), "mlp.layers.{}.bias", np.transpose),
    }
    for kernel, (network, bias, turned) in networks.items():
        params = network.init(KEY, x)["params"]
        (w0, b0), (w1, b1) = ((turned(params[kernel.format(i)]), params[bias.format(i)]) for i in (0, 1))
        expected = jax.nn.gelu(x @ w0 + b0) @ w1 + b1
        np.testing.assert_allclose(network.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)
        other = network.init(jax.random.key(1), x)["params"]
        assert not np.array_equal(other[kernel.format(0)], params[kernel.format(0)])


def nnx_object() -> Any:
    return NNXNetwork(72, 5, rngs=nnx.Rngs(0))


class WithDropout(equinox.Module):
    dropout: equinox.nn.Dropout

    def __init__(self, *, key: jax.Array) -> None:
        self.dropout = equinox.nn.Dropout(0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(x.ravel())


class Trained(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dense(7)(flat(x))


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return nn.Dense(7)(flat(x)), nn.Dense(7)(flat(x))


class Table(nn.Module):
    weights: np.ndarray

    def __call__(self, x: jax.Array) -> jax.Array:
        return flat(x) @ self.weights


def sequential(*layers: Callable[..., Any] | nn.Module) -> nn.Module:
    return nn.Sequential(layers)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: {"encoder": nnx_object()}, "VAE.encoder is an object of flax.nnx, .*from_nnx"),
        (lambda: {"decoder": EquinoxNetwork(2, SHAPE, key=KEY)}, "VAE.decoder .* of equinox, .*from_equinox"),
        (lambda: {"encoder": flat}, "VAE.encoder is a function, whose parameters would not be trained"),
        (lambda: {"likelihood": nnx_object()}, "VAE.likelihood is an object of flax.nnx"),
        (lambda: {"encoder": from_equinox(WithDropout)}, "WithDropout has Dropout"),
        (
            lambda: {"encoder": Trained()},
            r"VAE.encoder takes train, .* flax_vae.with_train\(Trained\(...\), train=True",
        ),
        (
            lambda: {"encoder": with_train(Trained(), training=True)},
            "Trained does not take training: it takes x, train",
        ),
        (lambda: {"encoder": Table(np.ones((72, 7)))}, "VAE.encoder.weights is an array, which cannot be hashed"),
        (
            lambda: {"encoder": sequential(flat, nn.BatchNorm(use_running_average=False))},
            "The model updates batch_stats in evaluation too: .* flax_vae.with_train",
        ),
        (
            lambda: {"encoder": sequential(flat, nn.Dense(7), nn.Dropout(0.5, deterministic=False))},
            "The model draws random numbers in evaluation too: .* flax_vae.with_train",
        ),
        (lambda: {"prior": StandardNormal(3)}, "VAE.posterior has 2 latents, but VAE.prior has 3: use one number"),
        (lambda: {"encoder": with_train(Trained())}, r"with_train\(Trained\(...\), train=True\)"),
        (
            lambda: {"decoder": sequential(nn.Dense(72), nn.sigmoid, image)},
            "The decoder's output is never below 0, but its likelihood takes logits",
        ),
        (lambda: {"decoder": sequential(nn.Dense(72), image, nn.tanh)}, "output is never below -1, but"),
        (lambda: {"encoder": Pair()}, 'The encoder returned a tuple; it must return one array "b f"'),
        (lambda: {"encoder": nn.Dense(7)}, r"The encoder returned an array of shape \(1, 4, 6, 7\)"),
        (
            lambda: {"decoder": nn.Dense(72)},
            r"The decoder returned an array of shape \(72,\) for each latent, .* takes \(4, 6, 3\)",
        ),
        (
            lambda: {"decoder": sequential(nn.Dense(24), lambda h: h.reshape(-1, 4, 6, 1))},
            r"\(4, 6, 1\) for each latent, but for examples of shape \(4, 6, 3\) BernoulliLikelihood takes \(4, 6, 3\)",
        ),
        (
            lambda: {
                "decoder": sequential(nn.Dense(72), lambda h: h.reshape(-1, 6, 4, 3)),
                "likelihood": NormalLikelihood(),
            },
            r"\(6, 4, 3\) for each latent, but .* NormalLikelihood takes \(4, 6, 3\)",
        ),
        (lambda: {"likelihood": PerPixelNormalLikelihood()}, r"PerPixelNormalLikelihood takes \(4, 6, 6\)"),
        (lambda: {"likelihood": "normal"}, r"VAE.likelihood is 'normal': pass a head, such as Bern"),
        (lambda: {"likelihood": NormalLikelihood}, "VAE.likelihood is NormalLikelihood: pass a head"),
    ],
)
def test_what_cannot_be_trained_is_named(parts: Callable[[], dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        init(make_vae(**parts()), KEY, SHAPE)


def test_images_are_one_array() -> None:
    model, tx = make_vae(), make_optimizer("adam", 1e-2, 10)
    state, images = init_state(model, tx, KEY, SHAPE), jax.random.uniform(KEY, (8, *SHAPE))
    for views in ((images, np.eye(8, dtype=np.float32)), {"image": images, "label": images[:, 0, 0, 0]}):
        with pytest.raises(UserError, match=r"but VAE takes one array: .* Batch\(x, context\)"):
            make_train_step(model, ELBO(), tx)(state, views)


def test_a_model_is_a_linen_module() -> None:
    with pytest.raises(UserError, match="A model is a Linen module, such as VAE, not a NNXNetwork"):
        init(nnx_object(), KEY, SHAPE)
