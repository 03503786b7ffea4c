"""Modules as values that pass through `jax.jit`."""

from typing import Any

import flax.linen as nn
from flax import struct
from jaxtyping import Array, Float

from flax_vae.pytrees import pytree


@pytree
class Function:
    """A module with its parameters as a value, which passes through `jax.jit` as no bound module does."""

    module: nn.Module = struct.field(pytree_node=False)
    variables: Any
    context: tuple[Array, ...] = ()
    method: str | None = struct.field(pytree_node=False, default=None)

    def __call__(self, x: Float[Array, "..."]) -> Any:
        """The method, by default the module itself, at x and the context."""
        return self.module.apply(self.variables, x, *self.context, method=self.method)


def as_value(module: nn.Module, *context: Array, method: str | None = None) -> Function:
    """A bound module as a function of its first argument, the others being `context`."""
    return Function(*module.unbind(), context, method)
