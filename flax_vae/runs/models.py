"""Build the model of a configuration."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, signature
from typing import Any

import flax.linen as nn
import jax

from flax_vae.batches import ExampleShape, X, has_views
from flax_vae.calls import parse
from flax_vae.data import is_own
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS, TopDownPosterior, TopDownPrior
from flax_vae.models.binding import Params, init, with_dtype
from flax_vae.models.priors import refuse_unconditional
from flax_vae.parts import Parts
from flax_vae.presets import PRESETS, channel_means
from flax_vae.runs.config import MODEL_PARTS, OF_PRESET, PARTS, UNSET_OBJECTIVE, Config, example_of
from flax_vae.runs.records import Record
from flax_vae.system.errors import UserError

_ARGUMENTS = {"preset": "model"}  # a preset of the user's own is passed as the model
# A run of an earlier version describes a part of the package instead of the user's own, and settings of that part.
_UNRECORDED: dict[str, dict[str, Any]] = {"preset": dict.fromkeys(OF_PRESET), "objective": UNSET_OBJECTIVE}


def make_model(config: Config, image_shape: ExampleShape, images: X | None = None) -> nn.Module:
    """Make the preset's model with the configured likelihood, prior and posterior.

    Args:
        config: the configuration.
        image_shape: the shape of an example, "h w c" or "v"; for views, that of each.
        images: training images, vectors or views, to initialise the decoder's output and pseudo-inputs; not needed for
            a trained model.

    Raises:
        UserError: an unknown part, or one of the user's own that cannot be imported or does not fit the settings.
    """
    if config.conditional and config.has_own("prior"):
        refuse_unconditional(str(config.prior))
    filled_in: Any = Config(**{name: getattr(config, name) for name in OF_PRESET})  # defaults where they are None
    if has_views(image_shape) and not config.has_own("preset"):
        raise UserError(f"`preset` {config.preset} takes one array, not views: pass a `model` of your own.")
    if has_views(image_shape) or len(image_shape) != 3:
        _refuse_parts_of_images(config)
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
        "mean": None if images is None or has_views(image_shape) else channel_means(images),
    }
    if config.has_own("preset"):
        supplied = _taken(config, supplied)
    return with_dtype(PRESETS.make(config.preset, **supplied), config.precision)


def _refuse_parts_of_images(config: Config) -> None:
    """Raise UserError for a part that needs images, for data of another kind."""
    kinds: dict[str, Parts] = {"preset": PRESETS, "likelihood": LIKELIHOODS, "prior": PRIORS}
    for kind, parts in kinds.items():
        text = getattr(config, kind)
        if text is not None and "images" in parts.needs(parse(text)):
            others = ", ".join(name for name in parts if "images" not in parts.needs(name))
            raise UserError(f"`{kind}` {text} needs images, but {config.dataset} holds vectors: choose {others}.")


def _taken(config: Config, supplied: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are supplied to a preset of the user's own.

    An argument with a default keeps it, unless the configuration sets it.
    """
    taken = signature(PRESETS.maker(config.preset)).parameters
    settings = {name: f"`{name}` {value}" for name in OF_PRESET if (value := getattr(config, name)) is not None}
    if levels := settings.pop("levels", None):
        settings |= {"prior": levels, "posterior": levels}
    for name, setting in settings.items():
        if name not in taken:
            raise UserError(f"{setting} has no effect: `preset` {config.preset} does not take `{name}`.")
    defaults = {name for name, argument in taken.items() if argument.default is not Parameter.empty}
    kept = defaults.intersection(OF_PRESET) - settings.keys()
    return {name: value for name, value in supplied.items() if name not in kept}


def model_of(run: str, config: Config, image_shape: ExampleShape, parts: Mapping[str, Any]) -> nn.Module:
    """Return the model of a trained run; arguments and errors as for `opened`."""
    config, model = opened(run, config, parts), parts.get("preset")
    return with_dtype(model, config.precision) if isinstance(model, nn.Module) else make_model(config, image_shape)


def opened(run: str, config: Config, parts: Mapping[str, Any], kinds: Iterable[str] = MODEL_PARTS) -> Config:
    """Return the configuration of a run with the parts of the user's own as the user passes them now.

    Args:
        run: the name of the run, for error messages.
        config: its configuration.
        parts: by kind, the parts of the user's own: each a value, the text "my_module:my_part" that imports it, or
            None.
        kinds: the kinds of parts that are needed; a model that is a value contains its own prior and so on.

    Raises:
        UserError: a part of the user's own is not passed: no code that a run names is imported.
    """
    given = {kind: part for kind, part in parts.items() if part is not None and kind in kinds}
    inside = MODEL_PARTS if isinstance(given.get("preset"), nn.Module) else ()
    if missing := [kind for kind in kinds if config.has_own(kind) and kind not in (*given, *inside)]:
        names = {kind: _ARGUMENTS.get(kind, kind) for kind in missing}
        what = _listed([f"{'an' if kind[0] in 'aeiou' else 'a'} {name}" for kind, name in names.items()])
        arguments = _listed([f"`{name}` {shlex.quote(config.text_of_own(kind))}" for kind, name in names.items()])
        raise UserError(f"{run} was trained with {what} of your own: pass {arguments}.")
    texts: dict[str, Any] = {kind: part for kind, part in given.items() if isinstance(part, str)}
    for kind, text in texts.items():
        if not parse(text).is_importable:
            raise UserError(f"`{_ARGUMENTS.get(kind, kind)}` {text}: write {example_of(kind)}, a part of your own.")
        if kind not in _UNRECORDED and not config.has_own(kind):
            raise UserError(f"`{kind}` {text}: {run} was trained with {getattr(config, kind)}.")
    for kind in texts.keys() & _UNRECORDED:
        if not config.has_own(kind):
            texts = _UNRECORDED[kind] | texts
    return replace(config, **texts)


def _listed(words: Sequence[str]) -> str:
    """Join words as in "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def command(words: str, where: object, config: Config, kinds: Iterable[str] = MODEL_PARTS) -> str:
    """Return a command on a run as it is typed in a shell, with a flag for each part of the user's own.

    Args:
        words: the command without its arguments: "flax-vae sample".
        where: the run.
        config: its configuration.
        kinds: the kinds of parts that the command needs.
    """
    own = {kind: shlex.quote(config.text_of_own(kind)) for kind in kinds if config.has_own(kind)}
    if "objective" in kinds and is_own(config.dataset):  # a command that trains
        own["dataset"] = shlex.quote(config.dataset)
    return " ".join([words, shlex.quote(str(where)), *(f"--{kind} {text}" for kind, text in own.items())])


def resume_command(where: object, config: Config, members: bool, stream: Record | None = None) -> str:
    """Return the command that resumes a run, or a Python call if a command cannot name its stream or one of its parts.

    Args:
        where: the directory of the run, or that of an ensemble.
        config: the configuration of the run, or of a member.
        members: True for an ensemble.
        stream: the description of the stream that was trained on, or None.
    """
    if stream is None and all(parse(text).is_importable for text in config.own_parts.values()):
        return command("flax-vae train --resume", where, config, PARTS)
    given = [*(_ARGUMENTS.get(kind, kind) for kind in config.own_parts), *(["data"] if stream else [])]
    function = "resume_many" if members else "resume"
    return f"flax_vae.{function}({str(where)!r}{''.join(f', {name}=...' for name in given)})"


def parameter_shapes(model: nn.Module, image_shape: ExampleShape, class_names: tuple[str, ...]) -> Params:
    """Return the shapes and dtypes of a model's parameters."""
    return jax.eval_shape(lambda: init(model, jax.random.key(0), image_shape, len(class_names)))
