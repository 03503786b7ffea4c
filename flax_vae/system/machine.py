"""What a program sets once, before JAX is first used. Importing flax_vae sets nothing: a program calls this or not."""

import os
import platform
import warnings
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import jax
import jaxlib
from jax._src.xla_bridge import backends_are_initialized
from platformdirs import user_cache_path

from flax_vae.system.errors import ProcessLost, UserError
from flax_vae.system.memory import free_memory

_WRONG_SUMS = ("0.10.1", "0.10.2")  # versions of jaxlib whose CPU code can add up wrong numbers, jax issue 39103
_HELLO, _GOODBYE = 300, 30  # seconds that processes wait for each other, at the start and when their work is done
_SILENCE = 30  # seconds after which one that shows no sign of life counts as dead
_YNN_FUSION = "--xla_cpu_experimental_ynn_fusion_type="  # what XLA leaves to the library that does


@dataclass(frozen=True)
class Cluster:
    """The processes that share a training, each started by itself with the same flags but `process_id`.

    Attributes:
        coordinator: "host:port" at which the others reach the first; "auto" where JAX finds out all of this, as on
            Slurm and Cloud TPUs.
        num_processes: how many there are.
        process_id: which of them this is, from 0.
    """

    coordinator: str
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        """Refuse processes that could not find each other, and would wait for minutes."""
        if self.coordinator == "auto":
            return
        host, _, port = self.coordinator.rpartition(":")
        if not (host and port.isdecimal() and 0 < int(port) < 2**16):
            raise UserError(f'--coordinator {self.coordinator}: write "host:port", or "auto" on a cluster.')
        if self.num_processes is None or self.process_id is None:
            raise UserError("--coordinator needs --num-processes, and --process-id from 0, which differs between them.")
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(f"--process-id {self.process_id} of {self.num_processes} processes: count them from 0.")


def use_machine(cpu_devices: int | None = None, cluster: Cluster | None = None) -> None:
    """Keep compilations in the user's cache folder, make CPU cores devices, and turn off what jaxlib adds up wrongly.

    A second start then reads what the first one compiled, with the same jaxlib and on the same kind of CPU. A cache
    that is set already, by `jax_compilation_cache_dir` or JAX_COMPILATION_CACHE_DIR, is left as it is. So are the flags
    in XLA_FLAGS; on the jaxlib that needs it one is added, which works before anything runs.

    Args:
        cpu_devices: devices that JAX sees on CPUs, each with its share of the cores; JAX's own choice, one, if None.
            GPUs and TPUs are not concerned.
        cluster: processes whose devices are devices of this one as well.
    """
    if _needs_flag() and not backends_are_initialized():
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_YNN_FUSION}-reduce".lstrip()
    warn_of_wrong_sums()
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        # What another version of jaxlib compiled, or one for another CPU, can end the program that loads it.
        folder = user_cache_path("flax_vae") / f"jax-{jaxlib.__version__}-{_cpu()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    if cluster is not None:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # Gloo mixes up programs that run side by side
        jax.config.update("jax_enable_preemption_service", False)  # which would take SIGTERM from those who save
        address = None if cluster.coordinator == "auto" else cluster.coordinator
        try:
            jax.distributed.initialize(
                address,
                cluster.num_processes,
                cluster.process_id,
                initialization_timeout=_HELLO,
                heartbeat_timeout_seconds=_SILENCE,
                shutdown_timeout_seconds=_GOODBYE,
            )
        except (ValueError, RuntimeError) as error:  # no cluster that JAX knows; nobody there
            raise UserError(f"--coordinator {cluster.coordinator}: {' '.join(str(error).split())}.") from None
        try:
            jax.devices()  # where the processes tell each other of theirs
        except RuntimeError as error:
            raise ProcessLost(f"The processes lost each other: {' '.join(str(error).split())}.") from None


def warn_of_wrong_sums() -> None:
    """Warn, once, of a program that has begun to compute on CPUs with a jaxlib that needs `use_machine`, without it."""
    if _needs_flag() and backends_are_initialized() and jax.default_backend() == "cpu":
        _warn()


def _needs_flag() -> bool:
    return jaxlib.__version__ in _WRONG_SUMS and _YNN_FUSION not in os.environ.get("XLA_FLAGS", "")


@cache
def _warn() -> None:
    warnings.warn(
        f"jaxlib {jaxlib.__version__} can compute wrong sums on CPUs (jax issue 39103): call flax_vae.use_machine() "
        "before anything runs.",
        RuntimeWarning,
        stacklevel=1,  # what is called first, often while JAX traces it, says nothing about where to call that
    )


def _cpu() -> str:
    """A name for the kind of CPU: what is compiled for one may use instructions that another lacks."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = {line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))}
    return sha256("\n".join(sorted(told) or (platform.machine(), platform.processor())).encode()).hexdigest()[:8]


def device_memory() -> int:
    """Bytes of the first device; a CPU's are those that the machine has to spare."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit") or free_memory()


def cpu_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
