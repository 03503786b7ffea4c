"""Coordination of several processes that train one model. A single process has no overhead."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Sharding

from flax_vae.system.errors import ProcessLost, UserError
from flax_vae.system.memory import is_out_of_memory

_SECONDS_TO_START, _SECONDS_TO_END = 300, 30  # how long processes wait for each other before and after the work
_SECONDS_TO_HEARTBEAT = 30  # a process that is silent for longer counts as dead


@dataclass(frozen=True)
class Cluster:
    """The processes that share a training, each started separately, with the same flags except `process_id`.

    Attributes:
        coordinator: "host:port" of the first process; "auto" if JAX detects all of this, as on Slurm and Cloud TPUs.
        num_processes: the number of processes.
        process_id: the index of this process, from 0.
    """

    coordinator: str
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        """Raise UserError for settings with which the processes would never find each other."""
        if self.coordinator == "auto":
            return
        host, _, port = self.coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UserError(f'`coordinator` {self.coordinator}: write "host:port", or "auto" on a cluster.')
        if self.num_processes is None or self.process_id is None:
            raise UserError(
                "`coordinator` needs `num_processes`, and a different `process_id` in each process, from 0."
            )
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"`process_id` is {self.process_id}, but must be at least 0 and below `num_processes` "
                f"({self.num_processes})."
            )


def join(cluster: Cluster) -> None:
    """Connect this process with the others, and wait for all of them.

    Raises:
        UserError: JAX does not support the cluster, or not all of the processes start.
        ProcessLost: a process dies meanwhile.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # Gloo mixes up programs that run side by side
    handler = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(
            None if cluster.coordinator == "auto" else cluster.coordinator,
            cluster.num_processes,
            cluster.process_id,
            initialization_timeout=_SECONDS_TO_START,
            heartbeat_timeout_seconds=_SECONDS_TO_HEARTBEAT,
            shutdown_timeout_seconds=_SECONDS_TO_END,
        )
    except (ValueError, RuntimeError) as error:  # an unknown kind of cluster, or nobody answers
        raise UserError(f"`coordinator` {cluster.coordinator}: {' '.join(str(error).split())}.") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # JAX's preemption service took over SIGTERM, which training handles
    try:
        jax.devices()  # the processes exchange their devices
    except RuntimeError as error:
        raise ProcessLost(f"The processes lost their connection: {' '.join(str(error).split())}.") from None


def is_first_process() -> bool:
    """Return True in the process that writes files and prints."""
    return jax.process_index() == 0


def maximum_over_processes(number: int) -> int:
    """Return the maximum of `number` over all processes.

    This is a barrier: every process has to call it at the same point.
    """
    return number if jax.process_count() == 1 else int(process_allgather(np.int32(number)).max())


def run_in_first_process(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function with arguments in the first process, while the others wait.

    Raises:
        UserError: in the other processes, if it failed; the first process re-raises the original exception.
    """
    error = None
    if is_first_process():
        try:
            function(*arguments)
        except Exception as raised:
            error = raised
    if maximum_over_processes(error is not None):
        raise error or UserError("The first process failed; its output says why.")


def gather(leaf: Any) -> Any:
    """Return an array itself if this process can read all of it, else a gathered copy.

    Every process must call this.
    """
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    return process_allgather(leaf, tiled=True)


def is_process_loss(error: BaseException) -> bool:
    """Return True if an error means that another process has died.

    JAX has no dedicated exception for Gloo's failures on CPUs.
    """
    if jax.process_count() == 1 or is_out_of_memory(error):
        return False
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


@contextmanager
def detect_lost_processes(advice: str) -> Iterator[None]:
    """Turn the failure of a collective computation, after another process has died, into `ProcessLost` with advice."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not is_process_loss(error):
            raise
        raise ProcessLost(f"One of the {jax.process_count()} processes has ended. {advice}") from error


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
