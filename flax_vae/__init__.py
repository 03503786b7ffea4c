"""Variational autoencoders as pure functions, on JAX, Flax Linen and Optax."""

import lazy_loader

__version__ = "0.1.0"

# Names are imported when they are asked for: a program can say what a Ctrl-C does before JAX is imported, which takes a
# second, and whoever wants one wing waits for no other. Which there are stands in __init__.pyi, where type checkers and
# editors look.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
