"""Parameters of a model, and the model bound to them."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from flax_vae.models.checks import refuse_unhashable
from flax_vae.models.protocol import require
from flax_vae.system.errors import UserError
from flax_vae.system.machine import warn_of_wrong_sums
from flax_vae.system.settings import by_default

Params = Mapping[str, Any]  # a pytree of arrays, keyed by the names of Linen's modules
Context = Float[Array | np.ndarray, "b v"] | None


@by_default
def init(model: nn.Module, key: Key[Array, ""], image_shape: tuple[int, int, int], context_dim: int = 0) -> Params:
    """Return the parameters of an untrained model, as a pytree; compiled once for all keys.

    Args:
        model: the model.
        key: draws the parameters.
        image_shape: "h w c".
        context_dim: size of the context of a conditional model.

    Raises:
        UserError: not a Linen module, one that cannot be hashed, or one with variables besides its parameters.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"A model is a Linen module, such as VAE, not a {type(model).__name__}.")
    refuse_unhashable(model)
    return _init(model, key, image_shape, context_dim)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _init(model: nn.Module, key: Key[Array, ""], image_shape: tuple[int, int, int], context_dim: int) -> Params:
    init_key, draw_key = jax.random.split(key)
    in_float32 = with_dtype(model, "float32")  # parameters do not depend on the type that networks compute in

    def run_all(model: Any, x: Array) -> None:
        if context_dim:
            model.put_variable("context", "value", jnp.zeros((1, context_dim)))
        model(x, draw_key)

    created = nn.init(run_all, in_float32)({"params": init_key}, jnp.zeros((1, *image_shape)))
    if others := created.keys() - {"params", "context", "intermediates"}:
        raise UserError(
            f"The model keeps {', '.join(sorted(others))}, and only parameters are trained and saved: replace "
            "normalisation by statistics of the batch by nn.LayerNorm or nn.GroupNorm."
        )
    return created["params"]


@by_default
def variables(model: nn.Module, params: Params, context: Context = None, mask: Any = None) -> dict[str, Any]:
    """Return the variables to bind: parameters, encoder and decoder cast to `model.dtype`, context and mask."""
    warn_of_wrong_sums()  # here, because every use of a model with parameters passes through
    networks = {name: params[name] for name in ("encoder", "decoder") if name in params}
    dtype = getattr(model, "dtype", "float32")
    bound = {"params": params | jax.tree.map(lambda leaf: leaf.astype(dtype), networks)}
    if mask is not None:
        require(model, "mask", what="A batch with a mask")
    given = {"context": context, "mask": mask}
    return bound | {
        name: {"value": jax.tree.map(jnp.asarray, part)} for name, part in given.items() if part is not None
    }


def bind(model: nn.Module, params: Params, context: Context = None, mask: Any = None) -> Any:
    """Bind parameters to a model, to call its methods: `bind(model, params).encode(x)`.

    Args:
        model: the model.
        params: its parameters.
        context: the input of a conditional model, one row per image or one row for all: labels as one-hot vectors, or
            vectors of any meaning. Encoder, decoder and prior depend on it (Sohn et al. 2015).
        mask: True for each observed value of x. The likelihood leaves out the others; see `Masked`.
    """
    return model.bind(variables(model, params, context, mask))


def model_of(prior: nn.Module) -> Any:
    """Return the model that owns a prior.

    `model.prior()` is part of the model's protocol, so a prior cannot receive its model as an argument.

    Raises:
        RuntimeError: the model no longer exists.
    """
    if prior.parent is None:  # Linen modules hold weak references to their parents
        raise RuntimeError("this prior needs its model, which no longer exists: keep model = bind(vae, params)")
    model: Any = prior.parent
    if model.has_variable("mask", "value"):  # of the batch, while a prior encodes images of its own
        module, bound = model.unbind()
        return module.bind({name: collection for name, collection in bound.items() if name != "mask"})
    return model


def with_context(x: Float[Array, "*k b f"], context: Context) -> Float[Array, "*k b g"]:
    """Concatenate x and its context, if there is one."""
    if context is None:
        return x
    return jnp.concatenate([x, jnp.broadcast_to(context, (*x.shape[:-1], context.shape[-1]))], axis=-1)


def with_dtype(model: nn.Module, dtype: str) -> nn.Module:
    """Return the model with networks that compute in `dtype`, or unchanged if it has no field `dtype`."""
    return model.clone(dtype=dtype) if hasattr(model, "dtype") else model


def with_remat(model: nn.Module) -> nn.Module:
    """Return the model with residual blocks whose gradients are recomputed, which takes less memory and more time.

    Raises:
        UserError: neither encoder nor decoder has residual blocks.
    """
    networks: dict[str, Any] = {name: getattr(model, name, None) for name in ("encoder", "decoder")}
    changed = {name: network.clone(remat=True) for name, network in networks.items() if hasattr(network, "remat")}
    if not changed:
        raise UserError("`remat` requires networks of residual blocks: `preset` residual_conv or ladder.")
    return model.clone(**changed)
