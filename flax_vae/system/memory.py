"""How much memory there is: what cannot fit is refused before the work, not ended by the system in its midst."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import jax

from flax_vae.system.errors import UserError

_GROUPS = Path("/sys/fs/cgroup")  # control groups, such as containers


def whole_memory() -> int:
    """Bytes that this process may ever have: those of the machine, of its control groups or of its limit at most."""
    limits = []
    with suppress(OSError, ValueError, AttributeError):  # what Windows lacks
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ImportError):  # Windows
        import resource

        own = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        limits += [limit for limit in own if limit != resource.RLIM_INFINITY]
    for path in _limits_of_groups():
        with suppress(OSError, ValueError):  # none, or "max"
            limits.append(int(path.read_text()))
    return min(limits, default=sys.maxsize)


def _limits_of_groups() -> Iterator[Path]:
    """The files that may hold a limit: of the process's control group, version 1 or 2, and of those around it."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                root = _GROUPS / controllers
                group = root / path.strip("/")
                name = "memory.limit_in_bytes" if controllers else "memory.max"
                yield from (folder / name for folder in (group, *group.parents) if folder.is_relative_to(root))


def free_memory() -> int:
    """Bytes that this process can still have: those that the machine has to spare, of `whole_memory` at most."""
    spare = sys.maxsize
    with suppress(OSError, ValueError, KeyError):  # Linux, which counts as spare what caches would give back
        words = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        spare = 1024 * int(words["MemAvailable"].split()[0])
    return min(spare, whole_memory())


def used_up(error: BaseException) -> bool:
    """Whether an error is that a device has no memory left."""
    said = str(error).lower()
    return isinstance(error, jax.errors.JaxRuntimeError) and ("resource_exhausted" in said or "out of memory" in said)


def refuse_larger(needed: int, what: str, way_out: str, there: int | None = None) -> None:
    """Raise UserError where something takes more bytes than there are.

    Args:
        needed: bytes, or fewer than it will be: an estimate from below refuses nothing that would work.
        what: what needs them.
        way_out: what to do instead.
        there: bytes that there are; those of `free_memory` if None.
    """
    there = free_memory() if there is None else there
    if needed > there:
        raise UserError(f"{what}: {needed >> 20:,} MiB of memory are needed, and {there >> 20:,} are free: {way_out}.")
