"""Parameters of a model, and the model bound to them.

The parameters are a pytree. A model with other collections, such as batch statistics, has Linen's whole tree instead,
`{"params": ..., "batch_stats": ...}`; every function with an argument `params` takes both. The parameters of an
objective are the entry "objective" of each collection, which the model ignores.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError, ModifyScopeVariableError
from jaxtyping import Array, Float, Key

from flax_vae.batches import ExampleShape, X, blank
from flax_vae.jaxprs import bounds
from flax_vae.models.checks import refuse_unhashable
from flax_vae.models.protocol import require
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default

Params = Mapping[str, Any]  # a pytree of arrays, keyed by the names of Linen's modules; or Linen's whole tree
Collections = dict[str, Any]  # variables other than parameters, such as {"batch_stats": ...}
OF_OBJECTIVE = "objective"
_BOUND = {"context", "mask", "intermediates"}  # collections that are not kept
Context = Float[Array | np.ndarray, "b v"] | None


@by_default
def init(model: nn.Module, key: Key[Array, ""], shape: ExampleShape, context_dim: int = 0) -> Params:
    """Return the parameters of an untrained model; compiled once for all keys.

    Args:
        model: the model.
        key: draws the parameters.
        shape: the shape of one example, such as "h w c"; for several views, a pytree of shapes.
        context_dim: size of the context of a conditional model.

    Raises:
        UserError: the model is not a Linen module, or cannot be hashed; a network of your own draws or updates
            statistics in evaluation too; or your decoder's output has a lower bound, but the likelihood takes logits.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"A model is a Linen module, such as VAE, not a {type(model).__name__}.")
    refuse_unhashable(model)
    return _init(model, key, blank(shape), context_dim)


@partial(jax.jit, static_argnums=(0, 3))
def _init(model: nn.Module, key: Key[Array, ""], x: X, context_dim: int) -> Params:
    init_key, draw_key = jax.random.split(key)
    in_float32 = with_dtype(model, "float32")  # parameters do not depend on the type that networks compute in

    def run_all(model: Any, x: X) -> None:
        if context_dim:
            model.put_variable("context", "value", jnp.zeros((1, context_dim)))
        model(x, draw_key)

    created = nn.init(run_all, in_float32)({"params": init_key}, x)
    kept = {name: collection for name, collection in created.items() if name not in {"params", *_BOUND}}
    tree = join_tree(created.get("params", {}), kept)
    if _has_own_networks(model):  # here, so that a model is traced for this once, not for each of its initialisations
        _refuse_bad_evaluation(model, tree, x, context_dim)
    return tree


def _has_own_networks(model: nn.Module) -> bool:
    """Return True unless model, encoder and decoder are the package's."""
    parts = [model, *(getattr(model, name, model) for name in ("encoder", "decoder"))]
    modules = {type(part).__module__ for part in parts}
    return any(not name.startswith("flax_vae.") or name == "flax_vae.nn.adapters" for name in modules)


def _refuse_bad_evaluation(model: nn.Module, tree: Params, x: X, context_dim: int) -> None:
    """Raise UserError if networks draw or update statistics in evaluation too, or the decoder squashes logits."""

    def logits(tree: Params) -> Any:
        bound = bind(model, tree, jnp.zeros((1, context_dim)) if context_dim else None)
        inference = bound(x, jax.random.key(0))
        return getattr(getattr(inference, "likelihood", None), "logits", ())

    advice = "give its network an argument train, as in {}, and wrap it as flax_vae.with_train(network, train=True)."
    try:
        least = min((low for low, _ in bounds(jax.make_jaxpr(logits)(tree))), default=-math.inf)
    except ModifyScopeVariableError:
        kept = ", ".join(sorted(split_tree(tree)[1]))
        example = advice.format("nn.BatchNorm(use_running_average=not train)")
        raise UserError(f"The model updates {kept} in evaluation too: {example}") from None
    except InvalidRngError:
        example = advice.format("nn.Dropout(rate, deterministic=not train)")
        raise UserError(f"The model draws random numbers in evaluation too: {example}") from None
    if least >= -1:  # as after a sigmoid or tanh: no pixel could be black
        raise UserError(
            f"The decoder's output is never below {least:g}, but its likelihood takes logits: leave out its last "
            "activation, such as a sigmoid."
        )


def split_tree(tree: Params) -> tuple[Params, Collections]:
    """Return the parameters and the other collections of a whole tree; {} for a pytree of parameters alone."""
    if "params" not in tree:
        return tree, {}
    return tree["params"], {name: collection for name, collection in tree.items() if name != "params"}


def join_tree(params: Params, others: Collections) -> Params:
    """Return the whole tree, or the parameters alone if there are no others: the inverse of `split_tree`."""
    return {"params": params, **others} if others else params


def split_objective(tree: Params) -> tuple[Params, Collections]:
    """Split the tree of a model and its objective: the model's parameters or whole tree, and the objective's tree."""
    params, others = split_tree(tree)
    own = {name: {**collection} for name, collection in {"params": params, **others}.items()}
    of_objective = {name: part.pop(OF_OBJECTIVE) for name, part in own.items() if OF_OBJECTIVE in part}
    return join_tree(own.pop("params"), {name: part for name, part in own.items() if part}), of_objective


def join_objective(tree: Params, of_objective: Collections) -> Params:
    """Return a model's tree with that of an objective: the inverse of `split_objective`.

    Raises:
        UserError: the model has a part named "objective".
    """
    params, others = split_tree(tree)
    collections = {"params": params, **others}
    for name, collection in of_objective.items():
        if OF_OBJECTIVE in collections.get(name, {}):
            raise UserError("The model has a part named objective, the name of the objective's parameters: rename it.")
        collections[name] = {**collections.get(name, {}), OF_OBJECTIVE: collection}
    return join_tree(collections.pop("params"), collections)


@by_default
def variables(model: nn.Module, params: Params, context: Context = None, mask: Any = None) -> dict[str, Any]:
    """Return the variables to bind: parameters, encoder and decoder cast to `model.dtype`, context and mask."""
    params, others = split_tree(params)
    networks = {name: params[name] for name in ("encoder", "decoder") if name in params}
    dtype = getattr(model, "dtype", "float32")
    bound = {"params": params | jax.tree.map(lambda leaf: leaf.astype(dtype), networks)}
    bound |= others
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


def again(model: Any, change: Callable[[Any], Any] = lambda variables: variables) -> Any:
    """Bind a bound model once more, with its present variables: in training, it draws the same dropout masks again.

    Updates of statistics by its methods are dropped.

    Args:
        model: the bound model.
        change: maps its variables, by default to themselves.
    """
    module, bound = model.unbind()
    rngs = {name: stream.rng for name, stream in model.scope.rngs.items()}
    kept = [name for name in bound if name not in {"params", *_BOUND}]
    return module.bind(change(bound), rngs=rngs, mutable=kept if rngs else False)


def model_of(prior: nn.Module) -> Any:
    """Return the model that owns a prior, bound as in evaluation and without the mask of the batch.

    `model.prior()` is part of the model's protocol, so a prior cannot receive its model as an argument. The images that
    a prior encodes are its own: they have no missing values, and do not enter the batch statistics.

    Raises:
        RuntimeError: the model no longer exists.
    """
    if prior.parent is None:  # Linen modules hold weak references to their parents
        raise RuntimeError("this prior needs its model, which no longer exists: keep bound = bind(model, params)")
    model: Any = prior.parent
    if model.scope.path:  # a prior of layers, which takes the place of the model
        return model
    module, bound = model.unbind()
    return module.bind({name: collection for name, collection in bound.items() if name != "mask"})


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
