"""Small models of every part with random parameters, for tests of exports."""

from itertools import chain, cycle, repeat
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_vae import Config, init
from flax_vae.export.functions import ModelFunction, model_functions
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS
from flax_vae.presets import PRESETS
from flax_vae.runs.models import make_model

CLASSES = 2
_SMALL = {
    "gated_mlp": "gated_mlp(features=(5,))",
    "ladder": "ladder(widths=(3,), depths=(1,), channels=2)",
    "residual_conv": "residual_conv(features=(3, 4))",
    "tutorial_dense": "tutorial_dense(features=(5,))",
    "autoregressive": "autoregressive(head='logistic_mixture', reach=2, features=2, hidden=4)",
    "flow": "flow(layers=2, hidden=4)",
    "mixture": "mixture(components=3)",
    "vamp": "vamp(components=3)",
    "iaf": "iaf(hidden=4)",
}


class Case(NamedTuple):
    """A model with its parameters."""

    model: nn.Module
    params: Any
    image_shape: tuple[int, int, int]
    context_dim: int

    @property
    def functions(self) -> dict[str, ModelFunction]:
        return {function.name: function for function in model_functions(*self)}


def small(name: str) -> str:
    """Return the call of a part with the smallest useful hyperparameters, or its name if it has none."""
    return _SMALL.get(name, name)


def make_case(
    image_shape: tuple[int, int, int] = (5, 3, 1), levels: int = 1, conditional: bool = False, **parts: str
) -> Case:
    """Make a model of the given parts, with parameters large enough that all of them matter."""
    names = {"preset": "tutorial_dense"} | parts
    config = Config(
        latent_dim=3, levels=levels, conditional=conditional, **{kind: small(name) for kind, name in names.items()}
    )
    model, context_dim = make_model(config, image_shape), CLASSES if conditional else 0
    random = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        inputs = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        return jnp.asarray(np.float32(random.normal(size=leaf.shape) / np.sqrt(inputs)))

    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0), image_shape, context_dim))
    return Case(model, jax.tree.map(draw, shapes), image_shape, context_dim)


def _cases() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return cases with every likelihood and every other part once, and cases with more pairs of parts, in turn."""
    presets = chain(PRESETS, repeat("tutorial_dense"))
    priors = cycle(reversed(list(PRIORS)))  # in this order, pseudo-inputs meet no convolutions, which are slow to trace
    turns = zip(LIKELIHOODS, presets, priors, cycle(POSTERIORS), cycle((1, 2)), strict=False)
    names = ("likelihood", "preset", "prior", "posterior", "levels")
    cases = {"-".join(map(str, parts)): dict(zip(names, parts, strict=True)) for parts in turns}
    every_preset, more = list(cases)[: len(PRESETS)], list(cases)[len(PRESETS) :]
    few = {
        **{name: cases[name] for name in every_preset},
        **{cases[name]["likelihood"]: {"likelihood": cases[name]["likelihood"]} for name in more},
        "conditional": {"conditional": True, "levels": 2},
        "flows at pseudo-inputs": {"prior": "vamp", "posterior": "iaf"},
    }
    ladder = {"conditional": True, "preset": "ladder", "posterior": "full"}
    return few, {name: cases[name] for name in more} | {"conditional ladder": ladder}


CASES, MORE_CASES = _cases()
