"""Networks of other kinds as Linen modules of one input: `VAE(encoder=from_nnx(MyEncoder, 300), ...)`.

`with_train` sets the arguments of a network that tell training from evaluation. `from_nnx` and `from_equinox` take
networks written in Flax NNX and Equinox, as a class and its arguments rather than an object, because an ensemble and a
new seed need fresh parameters. The parameters become entries of the model's pytree, named by their path in the network.
NNX networks may have dropout and batch statistics, Equinox networks may not.
"""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from flax_vae.nn.module import Module
from flax_vae.pytrees import flatten_by_name, names_tree
from flax_vae.system.errors import UserError


def from_nnx(network: Callable[..., Any], *args: Any, **kwargs: Any) -> nn.Module:
    """Return the NNX network `network(*args, **kwargs, rngs=...)` as a Linen module.

    The network is in training mode in a train step, as by `network.train()`, and in evaluation mode elsewhere.

    Args:
        network: a subclass of `flax.nnx.Module`, or a function that returns an object of one.
        *args, **kwargs: its arguments, except `rngs`; they must be hashable.
    """
    return _FromNNX(network, args, nn.FrozenDict(kwargs))


def from_equinox(network: Callable[..., Any], *args: Any, **kwargs: Any) -> nn.Module:
    """Return the Equinox network `network(*args, **kwargs, key=...)` as a Linen module.

    An Equinox network takes a single example, so it is mapped over the batch. Its floating-point arrays are trained.

    Args:
        network: a subclass of `equinox.Module`, or a function that returns an object of one.
        *args, **kwargs: its arguments, except `key`; they must be hashable.
    """
    return _FromEquinox(network, args, nn.FrozenDict(kwargs))


def with_train(network: nn.Module, **in_training: bool) -> nn.Module:
    """Wrap a network whose arguments tell training from evaluation: `with_train(MyEncoder(), train=True)`.

    In a train step, dropout masks are drawn and batch statistics are updated; in all other uses the network is a
    function of its parameters and its input.

    Args:
        network: a Linen module, such as one with `nn.Dropout` or `nn.BatchNorm`.
        **in_training: arguments of its `__call__` in training, such as `train=True` or `deterministic=False`; in
            evaluation each has the opposite value.

    Raises:
        UserError: the network does not take such an argument.
    """
    if not isinstance(network, nn.Module) or not in_training:
        name = getattr(network, "__name__", type(network).__name__)
        raise UserError(f"with_train takes a Linen module and an argument of its: with_train({name}(...), train=True).")
    taken = signature(type(network).__call__).parameters
    if unknown := [name for name in in_training if name not in taken]:
        raise UserError(f"{type(network).__name__} does not take {unknown[0]}: it takes {', '.join([*taken][1:])}.")
    return _WithTrain(network, nn.FrozenDict(in_training))


class _WithTrain(Module):
    """A network with arguments that differ between training and evaluation."""

    network: nn.Module
    in_training: Any

    def __call__(self, *inputs: Array) -> Any:
        """Call the network, in training mode if there is a random stream for dropout, as in a train step only."""
        trains = self.has_rng("dropout")
        return self.network(*inputs, **{name: value is trains for name, value in self.in_training.items()})


class _Adapter(Module):
    network: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Any = nn.FrozenDict()

    def _make(self, **random: Any) -> Any:
        return self.network(*self.args, **self.kwargs, **random)

    def _initial(self, draw: Callable[[Key[Array, ""]], dict[str, Array]]) -> dict[str, Array]:
        """Return the arrays of a fresh network by name; {} if there are parameters already."""
        return draw(self.make_rng("params")) if self.has_rng("params") else {}

    def _parameters(self, initial: Mapping[str, Array], shapes: Any) -> Any:
        """Return the parameters as a tree like `shapes`."""

        def parameter(name: str, shape: jax.ShapeDtypeStruct) -> Array:
            return self.param(name, lambda _: initial.get(name, jnp.zeros(shape.shape, shape.dtype)))

        return jax.tree.map(parameter, names_tree(shapes), shapes)


class _FromNNX(_Adapter):
    """An NNX network, whose `nnx.Param` are the parameters; its other variables are the collection "nnx"."""

    @nn.compact
    def __call__(self, x: Array) -> Any:
        """Call the network, in training or evaluation mode."""
        from flax import nnx

        def split(network: Any) -> tuple[Any, ...]:
            return nnx.split(network, nnx.Param, nnx.RngState, ...)  # type: ignore[misc]

        def draw(key: Key[Array, ""]) -> dict[str, Array]:
            _, params, _, others = split(self._make(rngs=nnx.Rngs(key)))
            return flatten_by_name(nnx.to_pure_dict(params)) | flatten_by_name(nnx.to_pure_dict(others))

        graph, params, streams, others = split(nnx.eval_shape(lambda: self._make(rngs=nnx.Rngs(0))))
        initial = self._initial(draw)
        nnx.replace_by_pure_dict(params, self._parameters(initial, nnx.to_pure_dict(params)))
        shapes = nnx.to_pure_dict(others)
        kept = jax.tree.map(lambda name: self.variable("nnx", name, initial.get, name), names_tree(shapes))
        nnx.replace_by_pure_dict(others, jax.tree.map(lambda variable: variable.value, kept))
        trains = self.has_rng("dropout")
        nnx.replace_by_pure_dict(
            streams, _streams(nnx.to_pure_dict(streams), self.make_rng("dropout") if trains else None)
        )
        network = nnx.merge(graph, params, streams, others)
        (network.train if trains else network.eval)()
        result = network(x)
        if trains:
            updated = nnx.to_pure_dict(split(network)[3])
            jax.tree.map(lambda variable, value: setattr(variable, "value", value), kept, updated)
        return result


def _streams(shapes: Any, key: Key[Array, ""] | None) -> Any:
    """Return the state of a network's random streams; without a key, nothing is drawn from them."""
    names = {name: number for number, name in enumerate(flatten_by_name(shapes))}

    def fill(name: str, shape: jax.ShapeDtypeStruct) -> Array:
        if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
            return jax.random.key(0) if key is None else jax.random.fold_in(key, names[name])
        return jnp.zeros(shape.shape, shape.dtype)  # the number of draws

    return jax.tree.map(fill, names_tree(shapes), shapes)


class _FromEquinox(_Adapter):
    """An Equinox network, whose floating-point arrays are the parameters."""

    @nn.compact
    def __call__(self, x: Array) -> Any:
        """Call the network on each example."""
        import equinox

        def draw(key: Key[Array, ""]) -> dict[str, Array]:
            return flatten_by_name(equinox.filter(self._make(key=key), equinox.is_inexact_array))

        network = equinox.filter_eval_shape(lambda: self._make(key=jax.random.key(0)))
        others = (equinox.nn.Dropout, equinox.nn.StateIndex)
        leaves = jax.tree.leaves(network, is_leaf=lambda leaf: isinstance(leaf, others))
        _refuse(self.network, {type(leaf).__name__ for leaf in leaves if isinstance(leaf, others)})
        shapes, static = equinox.partition(network, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
        fixed = {f"{leaf.dtype} arrays" for leaf in jax.tree.leaves(shapes) if not jnp.issubdtype(leaf, jnp.inexact)}
        _refuse(self.network, fixed)
        return jax.vmap(equinox.combine(self._parameters(self._initial(draw), shapes), static))(x)


def _refuse(network: Any, kinds: set[str]) -> None:
    if kinds:
        name = getattr(network, "__name__", network)
        raise UserError(
            f"{name} has {', '.join(sorted(kinds))}, but of an Equinox network only parameters are trained and saved: "
            "leave out dropout and batch statistics."
        )
