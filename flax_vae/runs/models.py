"""Build the model of a configuration."""

from collections.abc import Mapping
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any

import flax.linen as nn
import jax

from flax_vae.batches import StoredImages
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS, TopDownPosterior, TopDownPrior
from flax_vae.models.binding import Params, init, with_dtype
from flax_vae.nn.layers import ImageShape
from flax_vae.parts import read_call
from flax_vae.presets import PRESETS, channel_means
from flax_vae.runs.config import OF_PRESET, Config
from flax_vae.system.errors import UserError


def make_model(config: Config, image_shape: ImageShape, images: StoredImages | None = None) -> nn.Module:
    """Make the preset's model with the configured likelihood, prior and posterior.

    Args:
        config: the configuration.
        image_shape: "h w c".
        images: training images, to initialise the decoder's output and pseudo-inputs; not needed for a trained model.

    Raises:
        UserError: an unknown part, or an own preset that cannot be imported or does not take what is configured.
    """
    filled_in: Any = Config(**{name: getattr(config, name) for name in OF_PRESET})  # defaults where they are None
    latent_dims = (filled_in.latent_dim,) * filled_in.levels
    supplied: dict[str, Any] = {
        "latent_dim": filled_in.latent_dim,
        "image_shape": image_shape,
        "images": images,
        "conditional": config.conditional,
    }
    posterior = POSTERIORS.make(filled_in.posterior, **supplied)
    prior = PRIORS.make(filled_in.prior, **supplied)
    if filled_in.levels > 1:
        prior, posterior = TopDownPrior(prior, latent_dims), TopDownPosterior(posterior, latent_dims)
    supplied |= {
        "posterior": posterior,
        "prior": prior,
        "likelihood": LIKELIHOODS.make(filled_in.likelihood),
        "mean": None if images is None else channel_means(images),
    }
    if config.has_own("preset"):
        return with_dtype(_make_own(config, supplied), config.precision)
    return with_dtype(PRESETS.make(config.preset, **supplied), config.precision)


def _make_own(config: Config, supplied: Mapping[str, Any]) -> nn.Module:
    """Call the user's own `my_module:make_model` with the supplied arguments that it takes.

    An argument with a default keeps it, unless the configuration sets it.
    """
    call = read_call(config.preset)
    maker = PRESETS.load(call)
    taken = signature(maker).parameters
    settings = {name: f"`{name}` {value}" for name in OF_PRESET if (value := getattr(config, name)) is not None}
    if levels := settings.pop("levels", None):
        settings |= {"prior": levels, "posterior": levels}
    for name, setting in settings.items():
        if name not in taken:
            raise UserError(f"{setting} has no effect: `preset` {call.name} does not take `{name}`.")
    defaults = {name for name, argument in taken.items() if argument.default is not Parameter.empty}
    kept = defaults.intersection(OF_PRESET) - settings.keys()
    arguments = {name: value for name, value in supplied.items() if name in taken.keys() - kept} | dict(call.kwargs)
    try:
        signature(maker).bind(*call.args, **arguments)
    except TypeError as error:
        raise UserError(f"`preset` {call}: {error}; the signature is {call.name}{signature(maker)}.") from None
    model = maker(*call.args, **arguments)
    if not isinstance(model, nn.Module):
        raise UserError(f"`preset` {call} made a {type(model).__name__}, not a model, which is a Linen module.")
    return model


def model_of(run: str, config: Config, image_shape: ImageShape, model: nn.Module | str | None = None) -> nn.Module:
    """Return the model of a trained run; arguments and errors as for `opened`."""
    config = opened(run, config, model)
    return with_dtype(model, config.precision) if isinstance(model, nn.Module) else make_model(config, image_shape)


def opened(run: str, config: Config, model: nn.Module | str | None) -> Config:
    """Return the configuration to make the model of a trained run from.

    Args:
        run: the name of the run, for error messages.
        config: its configuration.
        model: the model, or the text "my_module:make_model" that imports it, if it is the user's own.

    Raises:
        UserError: the model is the user's own, and `model` is None: no code that a run names is imported.
    """
    if model is None and config.has_own("preset"):
        raise UserError(f"{run} was trained with a model of your own: pass `model` {config.text_of_own('preset')}.")
    if not isinstance(model, str):
        return config
    if not read_call(model).is_imported:
        raise UserError(f"`model` {model}: write my_module:make_model, a function of yours that returns the model.")
    # A run of an earlier version describes a preset instead of the user's own model.
    unknown: dict[str, Any] = {} if config.has_own("preset") else dict.fromkeys(OF_PRESET)
    return replace(config, preset=model, **unknown)


def parameter_shapes(model: nn.Module, image_shape: ImageShape, class_names: tuple[str, ...]) -> Params:
    """Return the shapes and dtypes of a model's parameters."""
    return jax.eval_shape(lambda: init(model, jax.random.key(0), image_shape, len(class_names)))
