"""The peak: products of two square matrices, with 2048 rows on CPUs and 8192 elsewhere.

Instead of a loss, it reports the number of operations in one product.
"""

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
            product(left, right).block_until_ready()
        return 2.0 * rows**3

    multiply(1)
    return multiply


serve(prepare)
