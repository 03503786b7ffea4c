"""The base class of the package's Linen modules."""

from typing import Any

import flax.linen as nn

from flax_vae.system.settings import methods_by_default


class Module(nn.Module):
    """A Linen module that is traced with JAX's default types and shapes; see `flax_vae.system.settings`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Decorate the methods, before Linen wraps them."""
        methods_by_default(cls)
        super().__init_subclass__(**kwargs)
