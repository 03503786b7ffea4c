"""The interface of objectives, and their registry.

An objective is any function `(model, x, key, step) -> (loss "b", metrics {name: "b"})`, in nats per image. The built-in
ones are frozen dataclasses, so that their hyperparameters are values. The train step averages over the batch.

Two class attributes are optional. `whole_batch = True` declares that an objective compares the images of a batch with
each other; `needs = ("factorised",)` declares its requirements on the posterior.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.errors import InvalidRngError
from jaxtyping import Array, Float, Int

from flax_vae.batches import BatchLike, batch_size_of, unpack
from flax_vae.models import Params, variables
from flax_vae.models.protocol import RandomKey
from flax_vae.parts import Parts
from flax_vae.system.errors import UserError
from flax_vae.system.settings import by_default

Metrics = dict[str, Array]
Step = Int[Array, ""]
LossAndMetrics = tuple[Float[Array, " b"], Metrics]
Objective = Callable[[Any, Array, Array, Array], tuple[Array, Metrics]]
OBJECTIVES = Parts("objective", supplied=("num_images", "total_steps"), called_with="model, x, key, step")


@by_default
def apply_objective(
    model: nn.Module, objective: Objective, params: Params, batch: BatchLike, key: RandomKey, step: int | Step
) -> Metrics:
    """Return the loss "b" and the metrics "b" of an objective, for a model with its parameters.

    Raises:
        UserError: the objective has parameters; a network draws; the objective did not return a loss and a dictionary
            of metrics, all of them one float per image; or a metric has a name that the train step uses.
    """
    x, *given = unpack(batch, model)
    size, name = batch_size_of(x), getattr(objective, "__name__", type(objective).__name__)
    if isinstance(objective, nn.Module):
        raise UserError(
            f"objective {name} is a Linen module, and only the model's parameters are trained: write a function or a "
            "frozen dataclass."
        )
    try:
        result = nn.apply(objective, model)(variables(model, params, *given), x, key, jnp.asarray(step))
    except InvalidRngError as error:  # its first line ends in a link
        reason = str(error).partition(" (http")[0]
        raise UserError(f"{reason}: networks draw nothing, so leave out dropout, or make it deterministic.") from None
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
        raise UserError(
            f"objective {name} must return (loss, metrics): an array of one loss per image and a dictionary."
        )
    if taken := {"loss", "gradient_norm", "skipped"} & result[1].keys():
        raise UserError(
            f"objective {name} returned a metric named {taken.pop()}, which the train step reports: rename it."
        )
    for term, value in {"loss": result[0], **result[1]}.items():
        if jnp.shape(value) != (size,):
            raise UserError(
                f"objective {name} returned {term} of shape {jnp.shape(value)} for {size} images; "
                f"it must be ({size},), one value per image: the train step averages over the batch."
            )
        if not jnp.issubdtype(kind := jnp.result_type(value), jnp.floating):
            raise UserError(f"objective {name} returned {term} of type {kind}: return floats, by .astype(x.dtype).")
    return {"loss": result[0], **result[1]}
