"""The configuration of a training as one value: the flags of `train.py` and the content of `config.json`."""

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_type_hints

from flax_vae.data import SOURCES
from flax_vae.models.likelihoods import LIKELIHOODS
from flax_vae.models.posteriors import POSTERIORS
from flax_vae.models.priors import PRIORS
from flax_vae.objectives import OBJECTIVES
from flax_vae.parts import LARGEST_FLOAT, LARGEST_INT, MOST_LAYERS, as_type, read_call
from flax_vae.presets import PRESETS
from flax_vae.system.errors import UserError
from flax_vae.training.optimizers import OPTIMIZERS, SCHEDULES

Binarize = Literal["none", "fixed", "dynamic"]
_LARGEST_SEED = 2**32 - 1  # JAX would truncate a larger one to 32 bits
_MOST_DEVICES = 1024  # on CPUs each device is created up front, with its own threads
PARTS = {parts.kind: parts for parts in (PRESETS, LIKELIHOODS, PRIORS, POSTERIORS, OBJECTIVES, OPTIMIZERS, SCHEDULES)}
_BOUNDS = {  # keywords of `_setting`, with the comparison that a value must satisfy and its name in errors
    "least": (operator.ge, "at least"),
    "above": (operator.gt, "greater than"),
    "below": (operator.lt, "below"),
    "most": (operator.le, "at most"),
}


def _setting(group: str, usual: Any, meaning: str, **bounds: int | float) -> Any:
    """Define a field of `Config`.

    None means unset: `__post_init__` then takes the value of the preset's recipe, or else the default.

    Args:
        group: the group of its flag in the help.
        usual: its default.
        meaning: the help of its flag.
        bounds: of a number: `least` and `most` include the bound, `above` and `below` exclude it.
    """
    return field(default=None, metadata={"group": group, "usual": usual, "meaning": meaning, "bounds": bounds})


@dataclass(frozen=True)
class Config:
    """A training: data, model, objective and recipe. Settings left out come from the preset's recipe.

    Parts are written as names, or as calls with literal arguments: `objective="renyi(alpha=0.3)"`.
    """

    dataset: str = _setting(
        "data",
        "fashion_mnist",
        f"{', '.join(SOURCES)}, the name of a TFDS image set, or a path: a folder of images, a .npy or .npz "
        "file, or a folder written by flax-vae prepare.",
    )
    data_dir: str | None = _setting("data", None, "Folder with the data set's files, or in which to store them.")
    image_size: int | None = _setting("data", None, "Side in pixels to which every image is resized.", least=1)
    binarize: Binarize = _setting(
        "data",
        "none",
        "Sample every pixel as 0 or 1, its grey value being the probability of a 1: once (fixed) or in each step "
        "(dynamic). Test images are sampled once in both cases.",
    )
    binarize_seed: int = _setting("data", 0, "Seed of the pixels that are sampled once.", least=0, most=_LARGEST_SEED)
    validation: float = _setting(
        "data",
        0.0,
        "Share of the training images held out to choose the best checkpoint and to stop early. The test set is then "
        "evaluated once, at the end. With 0 the test set chooses the checkpoint.",
        least=0,
        below=1,
    )
    conditional: bool = _setting(
        "data", False, "Condition encoder, decoder and prior on the labels, so that a class can be sampled."
    )
    preset: str = _setting("model", "gated_mlp", "Networks, with the recipe that trains them.")
    latent_dim: int = _setting("model", 2, "Number of latent dimensions.", least=1)
    likelihood: str = _setting("model", "bernoulli", "Observation model p(x|z).")
    prior: str = _setting("model", "normal", "Distribution of the latents p(z).")
    posterior: str = _setting("model", "diagonal", "Distribution of the latents given an image, q(z|x).")
    levels: int = _setting(
        "model",
        1,
        "Number of stochastic layers, all with the same number of latent dimensions. Prior and posterior are those of "
        "the top layer; the layers below are normal given those above.",
        least=1,
        most=MOST_LAYERS,
    )
    precision: Literal["float32", "bfloat16"] = _setting(
        "model",
        "float32",
        "Floating-point type of the networks' activations; bfloat16 is for GPUs and TPUs. Parameters and losses are "
        "always float32.",
    )
    objective: str = _setting("objective", "elbo", "Loss to minimise; write my_module:my_objective for your own.")
    beta: float | None = _setting(
        "objective", None, "Weight of the rate, for objectives with a beta; by default the objective's own.", least=0
    )
    num_samples: int | None = _setting(
        "objective",
        None,
        "Latent samples per image, for objectives with num_samples; by default the objective's own.",
        least=1,
    )
    kl_warmup_epochs: float = _setting("objective", 0.0, "Epochs over which beta rises linearly from 0.", least=0)
    kl_cycles: int = _setting("objective", 1, "Number of such warm-ups, spread evenly over the training.", least=1)
    epochs: int = _setting("optimisation", 8, "Passes over the training images.", least=1)
    early_stopping: int = _setting(
        "optimisation",
        0,
        "Epochs without a better validation loss after which training stops; 0 for never.",
        least=0,
    )
    batch_size: int = _setting("optimisation", 128, "Images per step.", least=1)
    optimizer: str = _setting("optimisation", "adam", "Optax optimiser.")
    learning_rate: float = _setting("optimisation", 2e-3, "Peak learning rate.", above=0)
    warmup_steps: int = _setting(
        "optimisation",
        100,
        "Steps over which the learning rate rises from 0, at most a tenth of the training.",
        least=0,
    )
    schedule: str = _setting("optimisation", "cosine", "Learning-rate schedule after the warm-up.")
    clip_norm: float = _setting("optimisation", 0.0, "Largest global norm of the gradient; 0 for none.", least=0)
    skip_norm: float = _setting(
        "optimisation",
        0.0,
        "Skip and count steps whose gradient has a larger norm; steps with a non-finite gradient are always skipped. "
        "0 for no limit.",
        least=0,
    )
    ema_decay: float = _setting(
        "optimisation",
        0.0,
        "Decay of the averaged parameters that evaluation and sampling use; 0 for none.",
        least=0,
        below=1,
    )
    seed: int = _setting(
        "optimisation",
        0,
        "Seed of everything random: the same seed gives the same bits on the same machine.",
        least=0,
        most=_LARGEST_SEED,
    )
    microbatch_size: int = _setting(
        "machine",
        0,
        "On CPUs, images per core at a time, chosen to fit its cache: faster for convolutions. With 0 all cores work "
        "on the whole batch together: faster for matrix products.",
        least=0,
    )
    accumulate: int = _setting(
        "machine",
        1,
        "Split each batch into this many parts and accumulate their gradients, for batches that do not fit in memory.",
        least=1,
    )
    remat: bool = _setting(
        "machine",
        False,
        "Recompute residual blocks in the backward pass instead of storing their activations: less memory, about a "
        "third more time. For GPUs and TPUs.",
    )
    devices: int | None = _setting(
        "machine",
        None,
        "Devices over which a batch is sharded; by default all GPUs or TPUs, and on CPUs all cores if the training has "
        "microbatches.",
        least=1,
        most=_MOST_DEVICES,
    )
    fsdp: int = _setting(
        "machine",
        1,
        "Number of these devices that also shard large parameters and optimiser state, if they do not fit in one "
        "device's memory.",
        least=1,
    )
    keep: int = _setting("output", 2, "Number of last checkpoints to keep, besides the best one; 2 at least.", least=1)

    def __post_init__(self) -> None:
        """Fill in the recipe, normalise parts, and reject what cannot be trained.

        Raises:
            UserError: a value of the wrong type or out of range, an unknown part, or parts that cannot be combined.
        """
        warmup_is_set = self.kl_warmup_epochs is not None
        self._fill_in()
        for setting in fields(self):
            refuse_outside(setting.name, getattr(self, setting.name), setting.metadata["bounds"])
        if not warmup_is_set:  # the recipe's warm-up assumes an objective with a beta, and the recipe's epochs
            longest = 0.0 if self.beta is None else self.epochs / self.kl_cycles
            object.__setattr__(self, "kl_warmup_epochs", min(self.kl_warmup_epochs, longest))
        self._refuse_combinations()

    def _fill_in(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        defaults = {setting.name: setting.metadata["usual"] for setting in fields(self)}
        recipe = recipe_of(self.preset if isinstance(self.preset, str) else defaults["preset"])  # refused below
        for name, hint in _hints().items():
            value = getattr(self, name)
            try:
                put(name, as_type(recipe.get(name, defaults[name]) if value is None else value, hint))
            except TypeError as error:
                raise UserError(f"`{name}` is {error}.") from None
        for kind, parts in PARTS.items():
            if kind != "objective" or not self.has_own_objective:
                put(kind, str(parts.read(getattr(self, kind))))
        for name in ("beta", "num_samples"):
            put(name, self._of_objective(name))

    def _of_objective(self, name: str) -> Any:
        """Return the value of a field that is shorthand for an argument of the objective."""
        value, call = getattr(self, name), read_call(self.objective)
        if call.is_imported or not OBJECTIVES.accepts(call.name, name):
            if value is not None:
                takers = " and ".join(other for other in OBJECTIVES if OBJECTIVES.accepts(other, name))
                raise UserError(f"`{name}` belongs to `objective` {takers}, not to {self.objective}.")
            return None
        arguments = dict(call.kwargs)
        if value is not None and name in arguments and value != arguments[name]:
            raise UserError(f"`{name}` {value:g} contradicts `objective` {self.objective}: give one of them.")
        default = OBJECTIVES.hyperparameters(call.name)[name].default
        return arguments.get(name, default) if value is None else value

    def _refuse_combinations(self) -> None:
        """Check the combination by what the parts declare."""
        if self.kl_warmup_epochs * self.kl_cycles > self.epochs:
            raise UserError(
                f"{self.kl_cycles} KL warm-up(s) of {self.kl_warmup_epochs:g} epochs do not fit in {self.epochs} "
                "epochs, so beta would never reach its value: lower `kl_warmup_epochs` or raise `epochs`."
            )
        if self.conditional and not PRIORS.accepts(read_call(self.prior).name, "conditional"):
            priors = " or ".join(name for name in PRIORS if PRIORS.accepts(name, "conditional"))
            raise UserError(f"`conditional` requires `prior` {priors}, not {self.prior}.")
        if (self.kl_warmup_epochs, self.kl_cycles) != (0.0, 1) and self.beta is None:
            raise UserError(f"`kl_warmup_epochs` and `kl_cycles` raise beta, which {self.objective} does not have.")
        if self.early_stopping and not self.validation:
            raise UserError("`early_stopping` requires `validation`: the test set must not decide when to stop.")
        if not self.has_own_objective:
            self._refuse_unmet_needs()

    def _refuse_unmet_needs(self) -> None:
        presets = [name for name in PRESETS if PRESETS.facts[name].get("flat", True)]
        is_flat = self.levels == 1 and read_call(self.preset).name in presets
        for need in OBJECTIVES.needs(read_call(self.objective).name):
            posteriors = [name for name in POSTERIORS if getattr(POSTERIORS[name], need, False)]
            if not is_flat or read_call(self.posterior).name not in posteriors:
                raise UserError(
                    f"`objective` {self.objective} compares latent dimensions one by one: it requires `levels` 1, "
                    f"`posterior` {' or '.join(posteriors)}, and `preset` {' or '.join(presets)}."
                )

    def on_devices(self, devices: int | None, fsdp: int | None) -> "Config":
        """Return the same training on other devices; None keeps the present setting."""
        return replace(self, devices=devices or self.devices, fsdp=fsdp or self.fsdp)

    @property
    def has_own_objective(self) -> bool:
        """True if the objective is imported from the user's module; resuming a run then requires its name again."""
        return read_call(self.objective).is_imported


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Config)


def recipe_of(preset: str) -> Mapping[str, Any]:
    """Return the settings in which a preset differs from the defaults.

    Raises:
        UserError: an unknown preset.
    """
    return PRESETS.facts[PRESETS.read(preset).name]["recipe"]


def refuse_outside(name: str, value: Any, bounds: Mapping[str, int | float]) -> None:
    """Raise UserError if a number is outside of its bounds, or too large for JAX; other values pass."""
    if type(value) not in (int, float):
        return
    bounds = {**bounds, "most": bounds.get("most", LARGEST_INT if type(value) is int else LARGEST_FLOAT)}
    broken = [(_BOUNDS[kind][1], bound) for kind, bound in bounds.items() if not _BOUNDS[kind][0](value, bound)]
    if broken:
        words = " and ".join(f"{word} {bound:,}" for word, bound in broken)
        raise UserError(f"`{name}` must be {words}, not {value}.")


def refuse_seed(name: str, seed: int) -> None:
    """Raise UserError if a seed is negative or too large for JAX."""
    refuse_outside(name, seed, {"least": 0, "most": _LARGEST_SEED})


RECIPES: Mapping[str, Config] = {name: Config(preset=name) for name in PRESETS}

SWEPT = ("learning_rate", "beta", "seed")  # the settings in which members of an ensemble may differ
