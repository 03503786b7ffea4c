"""The configuration of a training: a value, the flags of `flax-vae train`, and the file `config.json`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from flax_vae.calls import Call, parse, written
from flax_vae.data.resizing import Resize
from flax_vae.fields import LARGEST_SEED, document, refuse_outside, setting
from flax_vae.literals import MOST_LAYERS, as_type
from flax_vae.models import LIKELIHOODS, POSTERIORS, PRIORS
from flax_vae.models.priors import refuse_unconditional
from flax_vae.objectives import OBJECTIVES
from flax_vae.presets import PRESETS
from flax_vae.system.errors import UserError
from flax_vae.training.optimizers import OPTIMIZERS, SCHEDULES

Binarize = Literal["none", "fixed", "dynamic"]
_DEFAULT_PRESET = "gated_mlp"
_MOST_DEVICES = 1024  # on CPUs each device is created up front, with its own threads
PARTS = {parts.kind: parts for parts in (PRESETS, LIKELIHOODS, PRIORS, POSTERIORS, OBJECTIVES, OPTIMIZERS, SCHEDULES)}
MODEL_PARTS = ("preset", "likelihood", "prior", "posterior")  # those that make the model
OF_PRESET = ("latent_dim", "likelihood", "prior", "posterior", "levels")  # None leaves them to the user's own preset
OF_OPTIMIZER = ("learning_rate", "warmup_steps", "schedule", "clip_norm")  # None if it is a Python value
UNSET_OBJECTIVE = {"beta": None, "num_samples": None, "kl_warmup_epochs": 0.0, "kl_cycles": 1}  # if user-defined


@dataclass(frozen=True)
class Config:
    """A training: data, model, objective and recipe. Settings left out come from the preset's recipe.

    Parts are written as names, or as calls whose arguments are literals: `objective="renyi(alpha=0.3)"`. A part of your
    own is written as `my_module:my_part(...)`.
    """

    dataset: str = setting("data", "fashion_mnist")
    """A registered data set, the name of a TFDS image set, a function of your own, my_module:my_source(size=3), or a
    path: a folder of images, a .npy or .npz file, or a folder written by flax-vae prepare."""
    data_dir: str | None = setting("data", None)
    """Folder with the data set's files, or in which to store them."""
    image_size: int | None = setting("data", None, least=1)
    """Side in pixels to which every image is resized."""
    resize: Resize = setting("data", "crop")
    """Crop images of another shape to the middle, or stretch them."""
    binarize: Binarize = setting("data", "none")
    """Sample every pixel as 0 or 1, its grey value being the probability of a 1: once (fixed) or in each step
    (dynamic). Test images are sampled once in both cases."""
    binarize_seed: int = setting("data", 0, least=0, most=LARGEST_SEED)
    """Seed of the pixels that are sampled once."""
    validation: float = setting("data", 0.0, least=0, below=1)
    """Share of the training images held out to choose the best checkpoint and to stop early. The test set is then
    evaluated once, at the end. With 0 the test set chooses the checkpoint."""
    conditional: bool = setting("data", False)
    """Condition encoder, decoder and prior on the labels, so that a class can be sampled."""
    preset: str = setting("model", _DEFAULT_PRESET)
    """Networks, with the recipe that trains them; write my_module:make_model for your own. The function receives those
    settings below that it has as arguments; the others have no effect."""
    latent_dim: int | None = setting("model", 2, least=1)
    """Number of latent dimensions."""
    likelihood: str | None = setting("model", "bernoulli")
    """Observation model p(x|z)."""
    prior: str | None = setting("model", "normal")
    """Distribution of the latents p(z)."""
    posterior: str | None = setting("model", "diagonal")
    """Distribution of the latents given an image, q(z|x)."""
    levels: int | None = setting("model", 1, least=1, most=MOST_LAYERS)
    """Number of stochastic layers, all with the same number of latent dimensions. Prior and posterior are those of the
    top layer; the layers below are normal given those above."""
    precision: Literal["float32", "bfloat16"] = setting("model", "float32")
    """Floating-point type of the networks' activations; bfloat16 is for GPUs and TPUs. Parameters and losses are always
    float32."""
    objective: str = setting("objective", "elbo")
    """Loss to minimise; write my_module:my_objective for your own. A beta may be a schedule:
    elbo(beta=warmup(epochs=2)), or cyclical(epochs=2, cycles=4, weight=1.0)."""
    beta: float | None = setting("objective", None, least=0)
    """Weight of the rate, for objectives with a beta; by default the objective's own."""
    num_samples: int | None = setting("objective", None, least=1)
    """Latent samples per image, for objectives with num_samples; by default the objective's own."""
    kl_warmup_epochs: float = setting("objective", 0.0, least=0)
    """Epochs over which beta rises linearly from 0."""
    kl_cycles: int = setting("objective", 1, least=1)
    """Number of warm-ups of beta, spread evenly over the training."""
    epochs: int = setting("optimisation", 8, least=1)
    """Passes over the training images."""
    min_steps: int = setting("optimisation", 2000, least=0)
    """If the number of epochs is left out and the images are few, train for more epochs, until there are this many
    steps, in batches of at most an eighth of the images."""
    monitor: str | None = setting("optimisation", None)
    """Metric on the held-out images that chooses the best checkpoint and stops early, such as elbo; by default the one
    that the objective declares, or else the loss. A higher elbo is better; of any other metric, a lower value."""
    early_stopping: int = setting("optimisation", 0, least=0)
    """Epochs without a better validation loss, or `monitor` metric, after which training stops; 0 for never."""
    batch_size: int = setting("optimisation", 128, least=1)
    """Images per step."""
    optimizer: str = setting("optimisation", "adam")
    """Optax optimiser."""
    learning_rate: float | None = setting("optimisation", 2e-3, above=0)
    """Peak learning rate."""
    warmup_steps: int | None = setting("optimisation", 100, least=0)
    """Steps over which the learning rate rises from 0, at most a tenth of the training."""
    schedule: str | None = setting("optimisation", "cosine")
    """Learning-rate schedule after the warm-up."""
    clip_norm: float | None = setting("optimisation", 0.0, least=0)
    """Largest global norm of the gradient; 0 for none."""
    skip_norm: float = setting("optimisation", 0.0, least=0)
    """Skip and count steps whose gradient has a larger norm; steps with a non-finite gradient are always skipped. 0 for
    no limit."""
    ema_decay: float = setting("optimisation", 0.0, least=0, below=1)
    """Decay of the averaged parameters that evaluation and sampling use; 0 for none."""
    seed: int = setting("optimisation", 0, least=0, most=LARGEST_SEED)
    """Seed of everything random: the same seed gives the same bits on the same machine."""
    microbatch_size: int = setting("machine", 0, least=0)
    """On CPUs, images per core at a time, chosen to fit its cache: faster for convolutions. With 0 all cores work on
    the whole batch together: faster for matrix products."""
    accumulate: int = setting("machine", 1, least=1)
    """Split each batch into this many parts and accumulate their gradients, for batches that do not fit in memory."""
    remat: bool = setting("machine", False)
    """Recompute residual blocks in the backward pass instead of storing their activations: less memory, about a third
    more time. For GPUs and TPUs."""
    devices: int | None = setting("machine", None, least=1, most=_MOST_DEVICES)
    """Devices over which a batch is sharded; by default all GPUs or TPUs, and on CPUs all cores if the training has
    microbatches."""
    fsdp: int = setting("machine", 1, least=1)
    """Number of these devices that also shard large parameters and optimiser state, if they do not fit in one device's
    memory."""
    keep: int = setting("output", 2, least=1)
    """Number of last checkpoints to keep, besides the best one; at least 2."""

    def __post_init__(self) -> None:
        """Fill in the recipe, normalise parts, and reject what cannot be trained.

        Raises:
            UserError: a value of the wrong type or out of range, an unknown part, or parts that cannot be combined.
        """
        warmup_is_set = self.kl_warmup_epochs is not None
        if self.epochs is not None and self.min_steps is None:
            object.__setattr__(self, "min_steps", 0)
        self._fill_in()
        for field in fields(self):
            refuse_outside(field.name, getattr(self, field.name), field.metadata["bounds"])
        if not warmup_is_set:  # the recipe's warm-up assumes an objective with a beta, and the recipe's epochs
            longest = 0.0 if self.beta is None else self.epochs / self.kl_cycles
            object.__setattr__(self, "kl_warmup_epochs", min(self.kl_warmup_epochs, longest))
        self._refuse_combinations()

    def _fill_in(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        usual = usual_settings(self.preset if isinstance(self.preset, str) else _DEFAULT_PRESET)  # refused below
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if value is None and not self._is_left_to_own(name):
                value = usual[name]
            try:
                put(name, as_type(value, field.type))
            except TypeError as error:
                raise UserError(f"`{name}` {error}.") from None
        for kind, parts in PARTS.items():
            if (call := self.part(kind)) is not None:
                put(kind, str(parts.read(call)))
        for name in ("beta", "num_samples"):
            put(name, self._of_objective(name))

    def _is_left_to_own(self, name: str) -> bool:
        """Return True for a setting that a part of the user's own decides."""
        return (name in OF_PRESET and self.has_own("preset")) or (name in OF_OPTIMIZER and self.has_value("optimizer"))

    def _of_objective(self, name: str) -> Any:
        """Return the value of a field that is shorthand for an argument of the objective."""
        value, call = getattr(self, name), parse(self.objective)
        if call.is_imported or not OBJECTIVES.accepts(call.name, name):
            if value is not None:
                takers = " and ".join(other for other in OBJECTIVES if OBJECTIVES.accepts(other, name))
                raise UserError(f"`{name}` belongs to `objective` {takers}, not to {self.objective}.")
            return None
        arguments = dict(call.kwargs)
        if value is not None and name in arguments and value != arguments[name]:
            raise UserError(f"`{name}` {value:g} contradicts `objective` {self.objective}: give one of them.")
        if isinstance(arguments.get(name), Call):
            return None  # a schedule
        default = OBJECTIVES.hyperparameters(call)[name].default
        return arguments.get(name, default) if value is None else value

    def _refuse_combinations(self) -> None:
        """Check the combination by what the parts declare."""
        if self.kl_warmup_epochs * self.kl_cycles > self.epochs:
            raise UserError(
                f"{self.kl_cycles} KL warm-up(s) of {self.kl_warmup_epochs:g} epochs do not fit in {self.epochs} "
                "epochs, so beta would never reach its value: lower `kl_warmup_epochs` or raise `epochs`."
            )
        if self.conditional and self.prior and not self.has_own("prior"):
            refuse_unconditional(self.prior)
        if (self.kl_warmup_epochs, self.kl_cycles) != (0.0, 1) and self.beta is None:
            schedule = isinstance(dict(parse(self.objective).kwargs).get("beta"), Call)
            why = f"{'schedules itself' if schedule else 'does not have'}: leave them out"
            raise UserError(f"`kl_warmup_epochs` and `kl_cycles` raise beta, which {self.objective} {why}.")
        if self.early_stopping and not self.validation:
            raise UserError("`early_stopping` requires `validation`: the test set must not decide when to stop.")
        for name in OF_OPTIMIZER if self.has_value("optimizer") else ():
            if (value := getattr(self, name)) is not None:
                raise UserError(f"`{name}` {value} has no effect beside an optimiser of your own. Leave it out.")
        if not any(map(self.has_own, ("preset", "posterior", "objective"))):
            self._refuse_unmet_needs()

    def _refuse_unmet_needs(self) -> None:
        presets = [name for name in PRESETS if PRESETS.facts[name].get("flat", True)]
        is_flat = self.levels == 1 and parse(self.preset).name in presets
        for need in {*OBJECTIVES.needs(parse(self.objective))} - {"complete"}:  # not of the model
            posteriors = [name for name in POSTERIORS if getattr(POSTERIORS[name], need, False)]
            if not is_flat or parse(self.posterior or "").name not in posteriors:
                raise UserError(
                    f"`objective` {self.objective} compares latent dimensions one by one: it requires `levels` 1, "
                    f"`posterior` {' or '.join(posteriors)}, and `preset` {' or '.join(presets)}."
                )

    def fitted_to(self, num_images: int) -> "Config":
        """Return the configuration with the batches and epochs of a small training set; see `min_steps`.

        A KL warm-up takes the same share of the training as before.
        """
        if not self.min_steps:
            return self
        batch = self.batch_size
        if batch == usual_settings(self.preset)["batch_size"] and num_images < 8 * batch:
            batch = 2 ** max(0, (num_images // 8).bit_length() - 1)
        epochs = max(self.epochs, -(-self.min_steps // max(1, num_images // batch)))
        warmup = self.kl_warmup_epochs * epochs / self.epochs
        return replace(self, batch_size=batch, epochs=epochs, min_steps=0, kl_warmup_epochs=warmup)

    def resumed_with(self, **changes: Any) -> "Config":
        """Return the configuration with which a run is resumed; parts of the user's own may have been renamed.

        Raises:
            UserError: a setting that cannot change, since it decides what was trained up to now.
        """
        for name, value in changes.items():
            if name not in CHANGEABLE and not (self.has_own(name) and parse(value).is_importable):
                raise UserError(f"`{name}` cannot change when a run is resumed, only {', '.join(CHANGEABLE)}.")
        return replace(self, **changes)

    def naming(self, model: Any = None, objective: Any = None, optimizer: Any = None) -> "Config":
        """Return the configuration of the same training with the parts of the user's own that are given.

        Settings that would describe parts of the package become None.

        Raises:
            UserError: a setting of the model or the optimiser is not the default, and would have no effect.
        """
        own: dict[str, Any] = {}
        if model is not None:
            self._refuse_replaced(OF_PRESET, "a model of your own")
            own |= {"preset": written(model)} | dict.fromkeys(OF_PRESET)
        if objective is not None:
            own |= UNSET_OBJECTIVE | {"objective": written(objective)}
        if optimizer is not None:
            self._refuse_replaced(("optimizer", *OF_OPTIMIZER), "an optimiser of your own")
            own |= {"optimizer": written(optimizer)} | dict.fromkeys(OF_OPTIMIZER)
        return replace(self, **own)

    def _refuse_replaced(self, names: Iterable[str], by: str) -> None:
        usual = RECIPES.get(parse(self.preset).name, RECIPES[_DEFAULT_PRESET])
        for name in names:
            if (value := getattr(self, name)) not in (None, getattr(usual, name)):
                raise UserError(f"`{name}` {value} has no effect beside {by}. Leave it out.")

    def naming_data(self, file: str) -> "Config":
        """Return the configuration of the same training on arrays that a file holds.

        Raises:
            UserError: another data set is named.
        """
        self._refuse_replaced(("dataset", "data_dir"), "`data`")
        return replace(self, dataset=file)

    def part(self, kind: str) -> Call | None:
        """Return a part as it is written; None if it is left to the user's own preset."""
        text = getattr(self, kind)
        return None if text is None else parse(text)

    def has_own(self, kind: str) -> bool:
        """Return True if a part is the user's own: opening or resuming a run then requires it again.

        No code that a run directory names is imported.
        """
        call = self.part(kind) if kind in PARTS else None
        return call is not None and call.is_imported

    def has_value(self, kind: str) -> bool:
        """Return True if a part is a value of the user's own, which no text imports."""
        call = self.part(kind)
        return call is not None and call.is_imported and not call.is_importable

    def name_of(self, kind: str) -> str:
        """Return a part as it is written; for a value from Python, its type."""
        written = getattr(self, kind)
        return f"{written[1:]} (own)" if written.startswith(":") else written

    def text_of_own(self, kind: str) -> str:
        """Return the text that imports a part of the user's own, or an example if no text stands for it."""
        text = getattr(self, kind)
        return text if parse(text).is_importable else example_of(kind)

    @property
    def monitored(self) -> str:
        """The metric that chooses the best checkpoint: `monitor`, or what the objective declares, or the loss."""
        if self.monitor is not None or self.has_own("objective"):
            return self.monitor or "loss"
        return str(OBJECTIVES.declared(parse(self.objective), "monitor", "loss"))

    @property
    def has_own_model(self) -> bool:
        """True if the model, or a part of it, is the user's own."""
        return any(map(self.has_own, MODEL_PARTS))

    @property
    def own_parts(self) -> dict[str, str]:
        """The parts that are the user's own, by their kind."""
        return {kind: getattr(self, kind) for kind in PARTS if self.has_own(kind)}


def example_of(kind: str) -> str:
    """Return an example of the text that imports a part of the user's own."""
    return "my_module:make_model" if kind == "preset" else f"my_module:my_{kind}"


def recipe_of(preset: str) -> Mapping[str, Any]:
    """Return the settings in which a preset differs from the defaults; none for one of the user's own.

    Raises:
        UserError: an unknown preset.
    """
    call = PRESETS.read(preset)
    return {} if call.is_imported else PRESETS.facts[call.name]["recipe"]


def usual_settings(preset: str) -> dict[str, Any]:
    """Return the settings of a preset's recipe, and the defaults of the others."""
    return {field.name: field.metadata["usual"] for field in fields(Config)} | dict(recipe_of(preset))


document(Config, usual_settings(_DEFAULT_PRESET))
RECIPES: Mapping[str, Config] = {name: Config(preset=name) for name in PRESETS}

CHANGEABLE = (  # when a run is resumed
    *("dataset", "data_dir", "epochs", "early_stopping", "learning_rate", "schedule", "skip_norm", "keep"),
    *("devices", "fsdp"),
)
