"""Memory limits."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from flax_vae import UserError
from flax_vae.system.memory import device_memory, free_memory, memory_limit, require_memory


def test_free_memory_is_plausible() -> None:
    assert 2**26 < free_memory() < 2**50


def test_accelerators_add_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000})
    monkeypatch.setattr(jax, "local_devices", lambda: [accelerator] * 8)
    assert device_memory() == 8000
    cpu = SimpleNamespace(memory_stats=lambda: None)
    monkeypatch.setattr(jax, "local_devices", lambda: [cpu] * 8)
    monkeypatch.setattr("flax_vae.system.memory.free_memory", lambda: 70)
    assert device_memory() == 70  # shared by all


def test_exactly_the_free_memory_is_not_refused() -> None:
    require_memory(2**30, "this", "do that", available=2**30)
    with pytest.raises(UserError, match=r"^this: 1,024 MiB of memory are needed, and 1,023 are free: do that\.$"):
        require_memory(2**30, "this", "do that", available=2**30 - 1)


def test_a_limit_of_the_process() -> None:
    code = """
import resource
from flax_vae.system.memory import free_memory, memory_limit

resource.setrlimit(resource.RLIMIT_DATA, (500_000_000,) * 2)
assert free_memory() <= memory_limit() == 500_000_000
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_limit_of_a_control_group_around_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_vae.system.memory._CGROUPS", tmp_path)
    groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    kinds = {"": "memory.max", "memory": "memory.limit_in_bytes"}
    limited = [tmp_path / kind / path.strip("/") / kinds[kind] for _, kind, path in groups if kind in kinds]
    assert limited
    for file in limited:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("max\n")
    before = memory_limit()
    limited[-1].write_text("123456\n")
    assert (before > 123456, memory_limit()) == (True, 123456)
