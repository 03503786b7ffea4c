"""What a run is made of, as one value: the flags of `train.py`, and what `config.json` holds."""

import functools
from collections.abc import Mapping, Sequence
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
_SEEDS, _LARGEST_SEED = ("seed", "binarize_seed"), 2**32 - 1  # of a larger one JAX takes the lowest 32 bits
_MOST_DEVICES = 1024  # on CPUs each is made, with threads of its own, before anything else
PARTS = {parts.kind: parts for parts in (PRESETS, LIKELIHOODS, PRIORS, POSTERIORS, OBJECTIVES, OPTIMIZERS, SCHEDULES)}


def _setting(group: str, usual: Any, meaning: str) -> Any:
    """A field of `Config`: the group of its flag, its usual value, and what it is for.

    It is None until it is set: then it has the value of the preset's recipe, or else the usual one.
    """
    return field(default=None, metadata={"group": group, "usual": usual, "meaning": meaning})


@dataclass(frozen=True)
class Config:
    """A training: data, model, objective and recipe. What is left out is as the preset's recipe has it.

    Parts are written as names, or as calls with literal arguments: `objective="renyi(alpha=0.3)"`.
    """

    dataset: str = _setting(
        "data",
        "fashion_mnist",
        f"{', '.join(SOURCES)}, the name of a TFDS image set, or a path: a folder of images, .npy, .npz, or what "
        "flax-vae prepare wrote.",
    )
    data_dir: str | None = _setting("data", None, "Folder that holds the data set's files, or is to hold them.")
    image_size: int | None = _setting("data", None, "Side in pixels that every image is resized to.")
    binarize: Binarize = _setting(
        "data",
        "none",
        "Draw every pixel as 0 or 1 with its grey value as the probability of a 1: once, or again in each step. Test "
        "images are drawn once in both cases.",
    )
    binarize_seed: int = _setting("data", 0, "Seed of the pixels that are drawn once.")
    validation: float = _setting(
        "data",
        0.0,
        "Share of the training images that is held out for choosing the best checkpoint and for early stopping. The "
        "test set is then measured once, at the end; with 0 it does both.",
    )
    conditional: bool = _setting(
        "data", False, "Give the labels to encoder, decoder and prior, so that sample.py can ask for one by --label."
    )
    preset: str = _setting("model", "gated_mlp", "Networks, with the recipe that trains them.")
    latent_dim: int = _setting("model", 2, "Number of latent dimensions.")
    likelihood: str = _setting("model", "bernoulli", "Observation model p(x|z).")
    prior: str = _setting("model", "normal", "Distribution of the latents p(z).")
    posterior: str = _setting("model", "diagonal", "Distribution of an image's latents q(z|x).")
    levels: int = _setting(
        "model",
        1,
        "Stochastic layers, each with --latent-dim dimensions. --prior and --posterior are those of the top one; "
        "below, both are normals given the layers above.",
    )
    precision: Literal["float32", "bfloat16"] = _setting(
        "model",
        "float32",
        "What the networks compute in; bfloat16 is for GPUs and TPUs. Parameters and losses are float32 in any case.",
    )
    objective: str = _setting("objective", "elbo", "What is minimised; your own function is my_module:my_objective.")
    beta: float | None = _setting("objective", None, "Weight, for an objective that has a beta; else its own default.")
    num_samples: int | None = _setting(
        "objective", None, "Latents drawn for each image, for an objective that has num_samples; else its own default."
    )
    kl_warmup_epochs: float = _setting("objective", 0.0, "Epochs over which beta rises linearly from 0.")
    kl_cycles: int = _setting("objective", 1, "How often that warm-up starts again, evenly over the training.")
    epochs: int = _setting("optimisation", 8, "Passes over the training images.")
    early_stopping: int = _setting(
        "optimisation", 0, "Epochs without a better validation loss after which training stops; 0 for never."
    )
    batch_size: int = _setting("optimisation", 128, "Images per step.")
    optimizer: str = _setting("optimisation", "adam", "Optax optimiser.")
    learning_rate: float = _setting("optimisation", 2e-3, "Peak learning rate.")
    warmup_steps: int = _setting(
        "optimisation", 100, "Steps over which the learning rate rises from 0, at most a tenth of the training."
    )
    schedule: str = _setting("optimisation", "cosine", "Learning-rate schedule after the warm-up.")
    clip_norm: float = _setting("optimisation", 0.0, "Largest global norm of the gradient; 0 for none.")
    skip_norm: float = _setting(
        "optimisation",
        0.0,
        "Steps whose gradient has a larger norm are skipped and counted, as are those where it is not finite. "
        "0 for none.",
    )
    ema_decay: float = _setting(
        "optimisation", 0.0, "Decay of the averaged parameters that evaluation and sampling use; 0 for none."
    )
    seed: int = _setting(
        "optimisation", 0, "Seed of everything random: the same seed gives the same bits on the same machine."
    )
    microbatch_size: int = _setting(
        "machine",
        0,
        "On CPUs, images that a core works on by itself, as many as its cache takes: for convolutions. With 0 all "
        "cores work on the whole batch together: for matrix products.",
    )
    accumulate: int = _setting(
        "machine",
        1,
        "Parts of a batch whose gradients are computed one after the other and averaged: for one that does not fit in "
        "memory.",
    )
    remat: bool = _setting(
        "machine",
        False,
        "Compute what is within each residual block again for the gradient, instead of keeping it, which takes less "
        "memory and about a third more time. For GPUs and TPUs.",
    )
    devices: int | None = _setting(
        "machine",
        None,
        "Devices that share a batch; by default all GPUs or TPUs, and on CPUs all cores where there are microbatches.",
    )
    fsdp: int = _setting(
        "machine",
        1,
        "How many of these share the large parameters as well, and what the optimiser keeps of them, where they do not "
        "fit in the memory of one.",
    )
    keep: int = _setting("output", 2, "How many of the last checkpoints stay, beside the best one; 2 at least.")

    def __post_init__(self) -> None:
        """Fill in the recipe, write parts in one form, and refuse what cannot be trained.

        Raises:
            UserError: a value of another type or out of its range, a part that does not exist, or parts that do not go
                together.
        """
        warmup_is_own = self.kl_warmup_epochs is not None
        self._fill_in()
        self._refuse_values()
        if not warmup_is_own:  # the recipe's supposes an objective with a beta, and the recipe's own number of epochs
            longest = 0.0 if self.beta is None else self.epochs / self.kl_cycles
            object.__setattr__(self, "kl_warmup_epochs", min(self.kl_warmup_epochs, longest))
        self._refuse_combinations()

    def _fill_in(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        usual = {each.name: each.metadata["usual"] for each in fields(self)}
        recipe = recipe_of(self.preset if isinstance(self.preset, str) else usual["preset"])  # others are refused below
        for name, hint in _hints().items():
            value = getattr(self, name)
            try:
                put(name, as_type(recipe.get(name, usual[name]) if value is None else value, hint))
            except TypeError as error:
                raise UserError(f"{flag(name)} is {error}.") from None
        for kind, parts in PARTS.items():
            if kind != "objective" or not self.has_own_objective:
                put(kind, str(parts.read(getattr(self, kind))))
        for name in ("beta", "num_samples"):
            put(name, self._of_objective(name))

    def _of_objective(self, name: str) -> Any:
        """The value of a flag that is short for an argument of the objective."""
        given, call = getattr(self, name), read_call(self.objective)
        if self.has_own_objective or not OBJECTIVES.accepts(call.name, name):
            if given is not None:
                having = [other for other in OBJECTIVES if OBJECTIVES.accepts(other, name)]
                raise UserError(f"{flag(name)} belongs to --objective {' and '.join(having)}, not to {self.objective}.")
            return None
        written = dict(call.kwargs).get(name, OBJECTIVES.hyperparameters(call.name)[name].default)
        if given is not None and name in dict(call.kwargs) and given != written:
            raise UserError(f"{flag(name)} {given:g} and --objective {self.objective}: give it once.")
        return written if given is None else given

    def _refuse_values(self) -> None:
        positive = ("latent_dim", "levels", "num_samples", "epochs", "devices", "fsdp", "accumulate", "batch_size",
                    "kl_cycles", "keep", "learning_rate", "image_size")  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{flag(name)} must be greater than 0, not {value}.")
        not_negative = ("beta", "microbatch_size", "kl_warmup_epochs", "warmup_steps", "clip_norm", "skip_norm",
                        "early_stopping")  # fmt: skip
        for name in not_negative:
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"{flag(name)} must not be negative: {value}.")
        for name in _SEEDS:
            refuse_seed(name, getattr(self, name))
        largest = {"levels": MOST_LAYERS, "devices": _MOST_DEVICES} | dict.fromkeys(_SEEDS, _LARGEST_SEED)
        for name, value in vars(self).items():
            most = largest.get(name, LARGEST_INT if type(value) is int else LARGEST_FLOAT)
            if type(value) in (int, float) and value > most:
                raise UserError(f"{flag(name)} must be at most {most:,}, not {value}.")
        for name in ("ema_decay", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{flag(name)} must be at least 0 and below 1, not {getattr(self, name)}.")

    def _refuse_combinations(self) -> None:
        """What parts say of themselves decides which of them go together."""
        if self.kl_warmup_epochs * self.kl_cycles > self.epochs:
            raise UserError(
                f"{self.kl_cycles} KL warm-up(s) of {self.kl_warmup_epochs:g} epochs do not end within {self.epochs} "
                "epochs, so beta would never reach its value: lower --kl-warmup-epochs or raise --epochs."
            )
        if self.conditional and not PRIORS.accepts(read_call(self.prior).name, "conditional"):
            known = [name for name in PRIORS if PRIORS.accepts(name, "conditional")]
            raise UserError(f"--conditional goes with --prior {' and '.join(known)}, not with {self.prior}.")
        if (self.kl_warmup_epochs, self.kl_cycles) != (0.0, 1) and self.beta is None:
            raise UserError(f"--kl-warmup-epochs and --kl-cycles let beta rise, which {self.objective} does not have.")
        if self.early_stopping and not self.validation:
            raise UserError("--early-stopping needs --validation: the test set is not for deciding when to stop.")
        if self.has_own_objective:
            return
        objective = OBJECTIVES.make(self.objective, num_images=1, total_steps=1)
        for need in getattr(objective, "needs", ()):
            known = [name for name in POSTERIORS if getattr(POSTERIORS[name], need, False)]
            flat = [name for name in PRESETS if PRESETS.facts[name].get("flat", True)]
            one_vector = self.levels == 1 and read_call(self.preset).name in flat
            if not one_vector or read_call(self.posterior).name not in known:
                raise UserError(
                    f"--objective {self.objective} compares latent dimensions one by one: it goes with --levels 1 and "
                    f"--posterior {' or '.join(known)}, and with --preset {' or '.join(flat)}."
                )

    def on_devices(self, devices: int | None, fsdp: int | None) -> "Config":
        """The same training on other devices, where they are given."""
        return replace(self, devices=devices or self.devices, fsdp=fsdp or self.fsdp)

    @property
    def has_own_objective(self) -> bool:
        """Whether the objective is the user's own, which has to be named again to resume a run."""
        return ":" in read_call(self.objective).name


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Config)


def recipe_of(preset: str) -> Mapping[str, Any]:
    """What a preset has otherwise than usual.

    Raises:
        UserError: there is no such preset.
    """
    return PRESETS.facts[PRESETS.read(preset).name]["recipe"]


def refuse_seed(name: str, seed: int) -> None:
    """Raise UserError where a seed is negative or larger than JAX takes it."""
    if not 0 <= seed <= _LARGEST_SEED:
        raise UserError(f"{flag(name)} must be from 0 to {_LARGEST_SEED:,}, not {seed}.")


def flag(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


RECIPES: Mapping[str, Config] = {name: Config(preset=name) for name in PRESETS}

SWEPT = ("learning_rate", "beta", "seed")  # what members of an ensemble may have of their own


def member_names(configs: Sequence[Config]) -> list[str]:
    """What members of an ensemble differ in, as names of their directories: "beta-2-seed-0".

    Raises:
        UserError: they differ in something else, or not at all.
    """
    first = configs[0]
    for config in configs:
        own = {name: getattr(config, name) for name in SWEPT}
        if replace(first, **own) != config:
            raise UserError(f"Members of an ensemble may differ in {', '.join(SWEPT)} only.")
    names = ["-".join(f"{name.replace('_', '-')}-{value:g}" for name, value in own) for own in _varied(configs)]
    if len(set(names)) < len(configs):
        raise UserError("Members of an ensemble must differ in their learning rate, beta or seed.")
    return names


def settings(configs: Sequence[Config]) -> list[str]:
    """What members have in common with the other seeds beside them: "learning rate 0.001, beta 2"."""
    return [
        ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in own if name != "seed")
        for own in _varied(configs)
    ]


def _varied(configs: Sequence[Config]) -> list[list[tuple[str, float | int]]]:
    varied = [name for name in SWEPT if len({getattr(config, name) for config in configs}) > 1]
    return [[(name, getattr(config, name)) for name in varied] for config in configs]
