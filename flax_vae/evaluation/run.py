"""A trained model with the package's functions of (model, params, ...) as methods."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from flax_vae import sampling
from flax_vae.batches import Batch, X, are_views, batch_size_of
from flax_vae.data import observed
from flax_vae.distributions import LatentDistribution
from flax_vae.evaluation.evaluate import evaluate
from flax_vae.evaluation.plan import Plan
from flax_vae.evaluation.samples import Labels, contexts_of
from flax_vae.evaluation.tables import summary
from flax_vae.fields import refuse_seed
from flax_vae.metrics.likelihood import Defence, log_likelihood
from flax_vae.models import bind, require
from flax_vae.pytrees import by_name, from_names
from flax_vae.runs.records import Record
from flax_vae.runs.run import StoredRun, read_run
from flax_vae.system.errors import UserError
from flax_vae.system.settings import methods_by_default

Seed = int | Key[Array, ""]


@methods_by_default
class Run(StoredRun):
    """A trained model and its origin, with functions of (model, params, ...) as methods.

        run = load_run("runs/latest")
        run.sample(64)                  # sample(run.model, run.params, jax.random.key(0), 64)
        run.reconstruct(x, key=1)

    A method passes the model, its parameters and a key to the function of the same name. A key may be an integer, a
    seed: the same seed gives the same result. `x` are images "n h w c", vectors "n v" or several views; by default the
    test examples in `examples`. NaN is a missing value in vectors and in views. `labels`, for conditional models only,
    are classes: one for each image or one for all, as names or as numbers from 0. A name takes precedence over a number
    in quotes.

    The fields are those of `StoredRun`.
    """

    def sample(
        self,
        num_samples: int = 10,
        key: Seed = 0,
        temperature: float | Float[Array, ""] = 1.0,
        labels: Labels = None,
        pixel_key: Seed | None = None,
    ) -> X:
        """Sample images; see `flax_vae.sample`. Without labels, they cycle through the classes."""
        if not isinstance(num_samples, int | np.integer) or num_samples < 0:
            raise UserError(f"`num_samples` is {num_samples!r}: pass a number of images.")
        context, pixel_key = contexts_of(self, labels, num_samples), _key("pixel_key", pixel_key)
        key = _key("key", key)
        return sampling.sample(self.model, self.params, key, num_samples, temperature, context, pixel_key)

    def encode(self, x: X | None = None, labels: Labels = None) -> LatentDistribution:
        """Return the posterior of each image; see `flax_vae.encode`."""
        return sampling.encode(self.model, self.params, self._batch(x, labels))

    def decode(self, z: Float[Array | np.ndarray, "n d"], labels: Labels = None, pixel_key: Seed | None = None) -> X:
        """Decode latents into images; see `flax_vae.decode`."""
        z = _array("z", z, self._latent_shape())
        context, pixel_key = self._contexts(labels, len(z)), _key("pixel_key", pixel_key)
        return sampling.decode(self.model, self.params, z, context, pixel_key)

    def reconstruct(self, x: X | None = None, key: Seed = 0, labels: Labels = None, pixel_key: Seed | None = None) -> X:
        """Encode images, draw a latent for each, and decode it; see `flax_vae.reconstruct`."""
        key, pixel_key = _key("key", key), _key("pixel_key", pixel_key)
        return sampling.reconstruct(self.model, self.params, self._batch(x, labels), key, pixel_key)

    def log_likelihood(
        self,
        x: X | None = None,
        num_samples: int = 1000,
        key: Seed = 0,
        labels: Labels = None,
        defence: Defence | None = None,
    ) -> tuple[Float[Array, " n"], Float[Array, " n"], Float[Array, " n"]]:
        """Return the bound on log p(x) of each image, its standard error and its Pareto k.

        See `flax_vae.log_likelihood`.
        """
        key = _key("key", key)
        return log_likelihood(self.model, self.params, self._batch(x, labels), key, num_samples, defence)

    def evaluate(self, plan: Plan = Plan()) -> Record:
        """Evaluate the model on its whole test set; see `flax_vae.evaluate`."""
        return evaluate(self, plan)

    def summary(self) -> str:
        """Return the parameters of each module, the metrics of their epoch, and the last evaluation, as text."""
        return summary(self)

    def _batch(self, x: X | None, labels: Labels) -> Batch:
        """Return x, by default the stored examples, with its contexts if the model is conditional."""
        if x is None:
            x = self.examples
            contexts = self.contexts if labels is None else self._contexts(labels, batch_size_of(x))
        else:
            x = _views(x, self.examples) if are_views(self.examples) else _array("x", x, self.shape)
            contexts = self._contexts(labels, batch_size_of(x))
        return Batch(x, contexts, observed(x))

    def _latent_shape(self) -> tuple[int, ...]:
        """Return the shape of the latents that `decode` takes."""
        require(self.model, "single_layer", what="decode")
        context = np.zeros((1, len(self.class_names)), np.float32) if self.class_names else None
        bound = bind(self.model, self.params, context)  # a prior has a weak reference to its model
        return jax.eval_shape(lambda: bound.prior().mean()).shape[-1:]

    def _contexts(self, labels: Labels, count: int) -> np.ndarray | None:
        if self.class_names and labels is None:
            raise UserError("The run is conditional: pass `labels`, a class for each image or one for all.")
        return contexts_of(self, labels, count)


def load_run(
    where: str | Path,
    model: nn.Module | str | None = None,
    *,
    likelihood: str | None = None,
    prior: str | None = None,
    posterior: str | None = None,
    dataset: str | None = None,
) -> Run:
    """Open a trained model. Reads arrays and JSON, and executes nothing that the files contain.

    Args:
        where: a run directory; a .safetensors file written by `write_run`; "pretrained:NAME", a model that comes with
            the package; or "hf://OWNER/NAME", optionally with "@REVISION", a model on the Hugging Face hub. The data
            set is not needed.
        model: the model, if it is one of your own, or "my_module:make_model" to import it. No code that a run names is
            imported unless it is named here.
        likelihood, prior, posterior: likewise "my_module:my_prior", if a preset was trained with one of your own.
        dataset: the data set, if the run was trained on "my_module:my_source", or if its data set has moved. It is
            loaded only when it is needed, such as by `evaluate`.

    Raises:
        UserError: the run is missing, damaged, or of another model.
    """
    parts = {"likelihood": likelihood, "prior": prior, "posterior": posterior}
    return Run(**vars(read_run(where, model, **parts)) | {"dataset": dataset})


def _views(x: Any, examples: X) -> X:
    """Return views with the names and shapes of the views in the examples.

    Raises:
        UserError: x has other views.
    """
    named, expected = by_name(x), by_name(examples)
    if named.keys() != expected.keys():
        given = f"has the views {', '.join(named)}" if are_views(x) else "is one array"
        raise UserError(f"`x` {given}, but this run takes the views {', '.join(expected)}: pass an array for each.")
    return from_names({name: _array(f"x.{name}", named[name], view.shape[1:]) for name, view in expected.items()})


def _array(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """Return an array of rows.

    Raises:
        UserError: the rows have another shape.
    """
    array = value if hasattr(value, "shape") else np.asarray(value, np.float32)
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise UserError(f"`{name}` has shape {array.shape}, but this run takes (n, {', '.join(map(str, shape))}).")
    return array


def _key(name: str, key: Seed | None) -> Any:
    """Return the key of a seed; keys and None unchanged."""
    if key is None or isinstance(key, jax.Array):
        return key
    if not isinstance(key, int | np.integer):
        raise UserError(f"`{name}` is a {type(key).__name__}: pass a seed, such as 0, or a key.")
    refuse_seed(name, int(key))
    return jax.random.key(int(key))
