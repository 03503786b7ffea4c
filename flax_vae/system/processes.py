"""Several processes that train one model: which of them writes, and what they agree on. A single one pays nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Int

from flax_vae.system.errors import Lost, UserError
from flax_vae.system.memory import used_up


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def agreed(number: int) -> int:
    """The largest number of the processes, which all call this at the same point: they wait for each other."""
    return number if jax.process_count() == 1 else int(_gathered(np.int32(number)).max())


def by_first(do: Callable[[], object]) -> None:
    """Do something in the first process, while the others wait.

    Raises:
        UserError: it failed there; in the first process, what was raised.
    """
    error = None
    if is_first():
        try:
            do()
        except Exception as raised:
            error = raised
    failed = agreed(error is not None)
    if error:
        raise error
    if failed:
        raise UserError("The first process ended, and says why.")


def added_up(numbers: list[int]) -> list[int]:
    """The sums over the processes of numbers below 2⁶⁴, modulo 2⁶⁴."""
    if jax.process_count() == 1:
        return numbers
    halves = _gathered(np.array(numbers, np.uint64).view(np.uint32))  # JAX has no 64 bits
    return [int(total) for total in np.ascontiguousarray(halves).view(np.uint64).sum(0, dtype=np.uint64)]


def _gathered(value: Any) -> Int[np.ndarray, "p ..."]:
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(value)


def lost(error: BaseException) -> bool:
    """Whether an error is that another process has ended: JAX has no type of its own for what Gloo reports of CPUs."""
    if jax.process_count() == 1 or used_up(error):
        return False
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


@contextmanager
def together(way_out: str) -> Iterator[None]:
    """Raise `Lost`, with the way out, where what the processes compute together fails: one of them has ended."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not lost(error):
            raise
        raise Lost(f"Another of the {jax.process_count()} processes has ended. {way_out}") from error


def put(tree: Any, sharding: Any) -> Any:
    """Arrays that are the same in all processes, on the devices of all; one sharding, or a tree of them."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    if not isinstance(sharding, Sharding):
        return jax.tree.map(put, tree, sharding)

    def of(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(of(jax.random.key_data(leaf)))
        on_host = np.asarray(leaf)
        return jax.make_array_from_callback(on_host.shape, sharding, lambda index: on_host[index])

    return jax.tree.map(of, tree)
