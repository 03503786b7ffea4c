"""What a program sets once, before JAX is first used. Importing flax_vae sets nothing: a program calls this or not."""

import os

import jax
from platformdirs import user_cache_path


def use_machine(cpu_devices: int | None = None) -> None:
    """Keep compilations in the user's cache folder, and make CPU cores devices.

    A second start then reads what the first one compiled. A cache that is set already, by
    `jax_compilation_cache_dir` or JAX_COMPILATION_CACHE_DIR, is left as it is.

    Args:
        cpu_devices: devices that JAX sees on CPUs, each with its share of the cores; JAX's own choice, one, if None.
            GPUs and TPUs are not concerned.
    """
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(user_cache_path("flax_vae") / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", cpu_devices)


def cpu_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
