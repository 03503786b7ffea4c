"""Process-wide settings of JAX, made once before JAX is first used, and the number of CPU cores.

Importing flax_vae changes nothing; calling `use_machine` is optional.
"""

import os
import platform
from hashlib import sha256
from pathlib import Path

import jax
import jaxlib
from platformdirs import user_cache_path

from flax_vae.system.processes import Cluster, join


def use_machine(cpu_devices: int | None = None, cluster: Cluster | None = None) -> None:
    """Cache compilations and, if asked to, expose CPU cores as devices and join a cluster.

    Later runs with the same jaxlib on the same kind of CPU reuse the compilations in the user's cache folder.
    A cache that is set already, by `jax_compilation_cache_dir` or JAX_COMPILATION_CACHE_DIR, is kept.

    Args:
        cpu_devices: the number of devices that JAX sees on CPUs, which split the cores among them; JAX's default, one,
            if None. Has no effect on GPUs and TPUs.
        cluster: the processes that share their devices with this one.
    """
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        # Code compiled by another jaxlib or for another CPU can crash the process that loads it.
        folder = user_cache_path("flax_vae") / f"jax-{jaxlib.__version__}-{_cpu()}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    if cluster is not None:
        join(cluster)


def describe_missing_device(error: Exception) -> str | None:
    """Return one line about an error that means that JAX has no device of a kind in JAX_PLATFORMS; else None.

    JAX raises a RuntimeError for a platform that it cannot start, and an AssertionError without a message for "cuda" on
    a machine without a GPU.
    """
    platforms, reason = jax.config.jax_platforms, " ".join(str(error).split())  # type: ignore[attr-defined]
    if isinstance(error, AssertionError):
        try:
            jax.devices()
        except AssertionError:
            reason = "there is no such device"
    if not platforms or not reason.startswith(("there is no such device", "Unable to initialize backend")):
        return None
    return f"JAX_PLATFORMS={platforms}: {reason}. Set JAX_PLATFORMS=cpu, or leave it out."


def _cpu() -> str:
    """A short hash of the CPU model: code compiled for one may use instructions that another lacks."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = {line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))}
    return sha256("\n".join(sorted(model) or (platform.machine(), platform.processor())).encode()).hexdigest()[:8]


def cpu_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
