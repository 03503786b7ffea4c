"""Bound modules as pytrees."""

from typing import Any

import flax.linen as nn
from flax import struct
from jaxtyping import Array, Float

from flax_vae.pytrees import pytree


@pytree
class Function:
    """A module with its parameters as a pytree; unlike a bound module, it can be passed through `jax.jit`.

    Args:
        module: the module.
        variables: its parameters.
        context: arguments after the first.
        method: name of the method to call; by default the module itself.
    """

    module: nn.Module = struct.field(pytree_node=False)
    variables: Any
    context: tuple[Array, ...] = ()
    method: str | None = struct.field(pytree_node=False, default=None)

    def __call__(self, x: Float[Array, "..."]) -> Any:
        """Apply the method to x and the context."""
        return self.module.apply(self.variables, x, *self.context, method=self.method)


def as_function(module: nn.Module, *context: Array, method: str | None = None) -> Function:
    """Return a bound module as a function of its first argument, with the other arguments fixed to `context`."""
    return Function(*module.unbind(), context, method)
