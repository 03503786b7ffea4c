"""Networks of other kinds as Linen modules of one input: `VAE(encoder=from_nnx(MyEncoder, 300), ...)`.

`with_train` tells a network whether it trains. `from_nnx` and `from_equinox` take networks written in Flax NNX and
Equinox. Each takes a class and its arguments rather than an object, because an ensemble and a new seed need fresh
parameters.
The parameters become entries of the model's pytree, named by their place in the network. Networks with other state, or
that draw, are refused: BatchNorm and Dropout.
"""

from collections.abc import Callable
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
    """Return a network that is told whether it trains: `with_train(MyEncoder(), train=True)`.

    In a train step, dropout masks are drawn and statistics of batches are updated; in all other uses of the parameters
    the network is a function of its input.

    Args:
        network: a Linen module, such as one with `nn.Dropout` or `nn.BatchNorm`.
        **in_training: arguments of its `__call__` in training, such as `train=True` or `deterministic=False`; in
            evaluation each has the opposite value.

    Raises:
        UserError: the network does not take such an argument.
    """
    taken = signature(type(network).__call__).parameters
    if unknown := [name for name in in_training if name not in taken]:
        raise UserError(f"{type(network).__name__} does not take {unknown[0]}: it takes {', '.join([*taken][1:])}.")
    return _WithTrain(network, nn.FrozenDict(in_training))


class _WithTrain(Module):
    """A network with arguments that differ between training and evaluation."""

    network: nn.Module
    in_training: Any

    def __call__(self, *inputs: Array) -> Any:
        """Call the network; a train step is what has a stream of dropout masks."""
        trains = self.has_rng("dropout")
        return self.network(*inputs, **{name: value is trains for name, value in self.in_training.items()})


class _Adapter(Module):
    network: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Any = nn.FrozenDict()

    def _make(self, **random: Any) -> Any:
        return self.network(*self.args, **self.kwargs, **random)

    def _parameters(self, fresh: Callable[[Key[Array, ""]], Any], shapes: Any) -> Any:
        """Return the parameters as a tree like `shapes`; `fresh(key)` draws them if there are none yet."""
        values = flatten_by_name(fresh(self.make_rng("params"))) if self.has_rng("params") else {}

        def parameter(name: str, shape: jax.ShapeDtypeStruct) -> Array:
            return self.param(name, lambda _: values.get(name, jnp.zeros(shape.shape, shape.dtype)))

        return jax.tree.map(parameter, names_tree(shapes), shapes)

    def _refuse(self, kinds: set[str]) -> None:
        if kinds:
            name = getattr(self.network, "__name__", self.network)
            raise UserError(
                f"{name} has {', '.join(sorted(kinds))}, and only parameters are trained and saved: leave out dropout "
                "and statistics of the batch."
            )


class _FromNNX(_Adapter):
    """An NNX network, whose `nnx.Param` are the parameters."""

    @nn.compact
    def __call__(self, x: Array) -> Any:
        """Call the network."""
        from flax import nnx

        def fresh(key: Key[Array, ""]) -> Any:
            return nnx.to_pure_dict(nnx.split(self._make(rngs=nnx.Rngs(key)), nnx.Param, ...)[1])

        network = nnx.eval_shape(lambda: self._make(rngs=nnx.Rngs(0)))
        graph, state, others = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
        self._refuse({type(variable).__name__ for _, variable in nnx.to_flat_state(others)})
        nnx.replace_by_pure_dict(state, self._parameters(fresh, nnx.to_pure_dict(state)))
        return nnx.merge(graph, state)(x)


class _FromEquinox(_Adapter):
    """An Equinox network, whose floating-point arrays are the parameters."""

    @nn.compact
    def __call__(self, x: Array) -> Any:
        """Call the network on each example."""
        import equinox

        def fresh(key: Key[Array, ""]) -> Any:
            return equinox.filter(self._make(key=key), equinox.is_inexact_array)

        network = equinox.filter_eval_shape(lambda: self._make(key=jax.random.key(0)))
        others = (equinox.nn.Dropout, equinox.nn.StateIndex)
        leaves = jax.tree.leaves(network, is_leaf=lambda leaf: isinstance(leaf, others))
        self._refuse({type(leaf).__name__ for leaf in leaves if isinstance(leaf, others)})
        shapes, static = equinox.partition(network, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
        self._refuse(
            {f"{leaf.dtype} arrays" for leaf in jax.tree.leaves(shapes) if not jnp.issubdtype(leaf, jnp.inexact)}
        )
        return jax.vmap(equinox.combine(self._parameters(fresh, shapes), static))(x)
