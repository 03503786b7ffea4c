"""The peak: products of two square matrices, with 2048 rows on CPUs and 8192 elsewhere."""

import jax
import jax.numpy as jnp
from jax_precision import set_precision
from task import Task, serve


def prepare(_: Task):
    """One jitted product at a time."""
    dtype, rows = set_precision(), 2048 if jax.default_backend() == "cpu" else 8192
    left, right = (jax.random.normal(jax.random.key(seed), (rows, rows), dtype) for seed in (0, 1))
    product = jax.jit(jnp.matmul)

    def multiply(times: int) -> float:
        for _ in range(times):
            last = product(left, right).block_until_ready()
        return float(last[0, 0])

    multiply(1)
    return multiply


serve(prepare)
