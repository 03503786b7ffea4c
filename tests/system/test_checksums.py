"""Checksums of parameter trees."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from flax_vae.system.checksums import checksum


def test_one_bit_changes_both_numbers() -> None:
    """A bit of any array, of any dtype; the order of elements changes the second number."""
    random = np.random.default_rng(0)
    tree = {
        "a": random.normal(size=(3, 4, 5)).astype(np.float32),
        "b": random.integers(0, 9, (7,), np.int32),
        "c": np.float32(2.0),
        "d": random.normal(size=(2, 3)).astype(jax.numpy.bfloat16),
    }
    before = checksum(tree)
    for _ in range(200):
        name = random.choice(list(tree))
        damaged = np.array(tree[name])
        damaged.reshape(-1).view(np.uint8)[random.integers(damaged.nbytes)] ^= 1 << random.integers(8)
        assert not set(checksum(tree | {name: damaged})) & set(before)
    assert checksum(tree | {"a": tree["a"][::-1]})[1] != before[1]


def test_it_is_the_sum_in_its_definition() -> None:
    x = np.array([3, 5, 7], np.uint32)
    assert checksum({"a": x, "b": x}) == [30, sum((2 * i + 1) * int(bits) for i, bits in enumerate([*x, *x]))]


@pytest.mark.slow
def test_it_does_not_depend_on_the_sharding() -> None:
    program = """
import jax, numpy as np; jax.config.update("jax_num_cpu_devices", 4)
from flax_vae.system.checksums import checksum
tree = {"a": np.arange(48, dtype=np.float32).reshape(8, 6), "b": np.arange(8)}
mesh = jax.make_mesh((2, 2), ("x", "y"))
for spec in ((), ("x",), (("x", "y"),)):
    print(checksum(jax.device_put(tree, jax.NamedSharding(mesh, jax.P(*spec)))), checksum(tree))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(set(done.stdout.splitlines())) == 1
    assert len(done.stdout.splitlines()) == 3
