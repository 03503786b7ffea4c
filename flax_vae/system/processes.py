"""Coordination of several processes that train one model. A single process has no overhead."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Int

from flax_vae.system.errors import ProcessLost, UserError
from flax_vae.system.memory import is_out_of_memory


def is_first_process() -> bool:
    """Return True in the process that writes files and prints."""
    return jax.process_index() == 0


def maximum_over_processes(number: int) -> int:
    """Return the maximum of `number` over all processes.

    This is a barrier: every process has to call it at the same point.
    """
    return number if jax.process_count() == 1 else int(_all_gather(np.int32(number)).max())


def run_in_first_process(function: Callable[[], object]) -> None:
    """Call a function in the first process, while the others wait.

    Raises:
        UserError: in the other processes, if it failed; the first process re-raises the original exception.
    """
    error = None
    if is_first_process():
        try:
            function()
        except Exception as raised:
            error = raised
    failed = maximum_over_processes(error is not None)
    if error:
        raise error
    if failed:
        raise UserError("The first process failed; its output says why.")


def sum_over_processes(numbers: list[int]) -> list[int]:
    """Sum each of the numbers, below 2⁶⁴, over all processes, modulo 2⁶⁴."""
    if jax.process_count() == 1:
        return numbers
    halves = _all_gather(np.array(numbers, np.uint64).view(np.uint32))  # JAX has no 64 bits
    return [int(total) for total in np.ascontiguousarray(halves).view(np.uint64).sum(0, dtype=np.uint64)]


def _all_gather(value: Any) -> Int[np.ndarray, "p ..."]:
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(value)


def is_process_loss(error: BaseException) -> bool:
    """Return True if an error means that another process has died.

    JAX has no dedicated exception for Gloo's failures on CPUs.
    """
    if jax.process_count() == 1 or is_out_of_memory(error):
        return False
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


@contextmanager
def detect_lost_processes(advice: str) -> Iterator[None]:
    """Turn a failed collective computation into `ProcessLost`, with advice: another process has died."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not is_process_loss(error):
            raise
        raise ProcessLost(f"Another of the {jax.process_count()} processes has ended. {advice}") from error


def place_on_devices(tree: Any, sharding: Any) -> Any:
    """Place arrays that are equal in all processes on the devices of all of them.

    Args:
        tree: a pytree of arrays.
        sharding: one sharding for all arrays, or a tree of shardings.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    if not isinstance(sharding, Sharding):
        return jax.tree.map(place_on_devices, tree, sharding)

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)))
        on_host = np.asarray(leaf)
        return jax.make_array_from_callback(on_host.shape, sharding, lambda index: on_host[index])

    return jax.tree.map(place, tree)
