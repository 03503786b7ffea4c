"""Memory limits: work that cannot fit is refused up front instead of being killed halfway."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import jax

from flax_vae.system.errors import UserError

_CGROUPS = Path("/sys/fs/cgroup")  # control groups, which limit containers


def memory_limit() -> int:
    """Return the most memory that this process can get, in bytes.

    It is the least of the machine's memory, the limits of the control groups, and the process's own limit.
    """
    limits = []
    with suppress(OSError, ValueError, AttributeError):  # Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ImportError):  # Windows
        import resource

        soft = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        limits += [limit for limit in soft if limit != resource.RLIM_INFINITY]
    for path in _cgroup_limits():
        with suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(path.read_text()))
    return min(limits, default=sys.maxsize)


def _cgroup_limits() -> Iterator[Path]:
    """Yield the files that may hold a limit: of the process's control group, version 1 or 2, and of its ancestors."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                root = _CGROUPS / controllers
                group = root / path.strip("/")
                name = "memory.limit_in_bytes" if controllers else "memory.max"
                yield from (folder / name for folder in (group, *group.parents) if folder.is_relative_to(root))


def free_memory() -> int:
    """Return the memory that is available, in bytes: at most `memory_limit()`."""
    free = sys.maxsize
    with suppress(OSError, ValueError, KeyError):  # Linux; MemAvailable includes reclaimable caches
        entries = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(entries["MemAvailable"].split()[0])
    return min(free, memory_limit())


def device_memory() -> int:
    """Return the memory of all devices together, in bytes; that of CPUs is `free_memory()`."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    return jax.process_count() * sum(limits) or free_memory()


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that a device is out of memory."""
    text = str(error).lower()
    return isinstance(error, jax.errors.JaxRuntimeError) and ("resource_exhausted" in text or "out of memory" in text)


def require_memory(needed: int, what: str, advice: str, available: int | None = None) -> None:
    """Raise UserError if something needs more memory than is available.

    Args:
        needed: bytes needed, estimated from below so that nothing that would work is refused.
        what: the object or setting that needs them, for the message.
        advice: what to change, for the message.
        available: bytes available; `free_memory()` if None.
    """
    available = free_memory() if available is None else available
    if needed > available:
        free = f"{needed >> 20:,} MiB of memory are needed, and {available >> 20:,} are free"
        raise UserError(f"{what}: {free}: {advice}.")
