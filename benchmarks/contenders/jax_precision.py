"""The precision that PRECISION asks for, for contenders on JAX."""

import os

import jax

# JAX multiplies in full float32 by default on CPUs, but not on accelerators.
_OF_PRODUCTS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}


def set_precision() -> str:
    """Set the precision of products, and return the type of the networks' arrays."""
    if precision := os.environ.get("PRECISION"):
        jax.config.update("jax_default_matmul_precision", _OF_PRODUCTS[precision])
    return "bfloat16" if precision == "bfloat16" else "float32"
