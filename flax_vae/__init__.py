"""Variational autoencoders as pure functions, on JAX, Flax Linen and Optax."""

from pathlib import Path

import lazy_loader

__version__ = "0.1.0"

# Names are imported lazily. Importing JAX takes a second, and a program installs its signal handlers before that; using
# one subpackage does not import the others. The names are listed in __init__.pyi, where type checkers and editors look.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
# Subpackages are attributes, but `from flax_vae import *` must not replace the user's `nn`.
__all__ = [name for name in _names if not Path(__file__).with_name(name).is_dir()]
