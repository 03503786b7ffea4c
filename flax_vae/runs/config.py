"""What a run is made of, as one value: the flags of `train.py`, and what `config.json` holds."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from flax_vae.errors import UserError

OBJECTIVES = (
    "elbo", "beta_tcvae", "capacity", "dip_vae_i", "dip_vae_ii", "dreg", "free_bits", "infovae", "iwae", "renyi", "stl",
)  # fmt: skip
WEIGHTED = ("elbo", "beta_tcvae")  # the objectives that have a beta
Binarize = Literal["none", "fixed", "dynamic"]
FORMAT = 1  # of config.json; raised when an older program could misread a newer file


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field: a plain type, a choice, or one that may be None."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    return type(value) in (get_args(hint) or (hint,))


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    return " or ".join(each.__name__ for each in get_args(hint) or (hint,)).replace("NoneType", "None")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Config:
    """A training: model, data, objective and recipe."""

    preset: Literal["gated_mlp", "residual_conv", "tutorial_conv", "tutorial_dense"] = "gated_mlp"
    """Model and its recipe: the defaults below are those of the preset that is named."""
    dataset: str = "fashion_mnist"
    """fashion_mnist, sprites, the name of a TFDS image set, or a path: a folder of images, .npy or .npz."""
    data_dir: str | None = None
    """Folder that holds the data set's files, or is to hold them."""
    image_size: int | None = None
    """Side in pixels that the images of a folder are resized to."""
    binarize: Binarize = "none"
    """Draw every pixel as 0 or 1, its grey value being the probability of a 1: once, by --binarize-seed, or anew in
    each step. Test images are drawn once in both cases."""
    binarize_seed: int = 0
    """Seed of the pixels that are drawn once."""
    latent_dim: int = 2
    """Number of latent dimensions."""
    likelihood: Literal[
        "bernoulli", "continuous_bernoulli", "normal", "per_pixel_normal", "discretized_logistic", "logistic_mixture",
        "categorical", "beta_binomial",
    ] = "bernoulli"  # fmt: skip
    """What pixels are distributed as, given the latents."""
    prior: Literal["normal", "mixture", "vamp", "flow"] = "normal"
    """What latents are distributed as: N(0, I), a learned mixture of 50 normals, the posteriors of 128 learned images
    (VampPrior), or a learned flow."""
    posterior: Literal["diagonal", "full", "iaf"] = "diagonal"
    """What an image's latents are distributed as: a normal of diagonal or full covariance, or an inverse autoregressive
    flow from one."""
    levels: int = 1
    """Layers of latents, --latent-dim each. --prior and --posterior are those of the top one; in each below, both are
    normals given the layers above."""
    conditional: bool = False
    """Give the images' labels to encoder, decoder and prior, so that sample.py can ask for one of them by --label."""
    objective: str = "elbo"
    """What is minimised: elbo, beta_tcvae, capacity, dip_vae_i, dip_vae_ii, dreg, free_bits, infovae, iwae, renyi, stl,
    or your own function as my_module:my_objective."""
    num_samples: int = 8
    """Latents drawn for each image, by the objectives iwae, dreg and renyi."""
    beta: float = 1.0
    """Weight of the rate (the KL) in the elbo objective, of the total correlation in beta_tcvae."""
    kl_warmup_epochs: float = 0.0
    """Epochs over which beta rises linearly from 0."""
    kl_cycles: int = 1
    """How often that warm-up is begun again, evenly over the training."""
    epochs: int = 8
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step."""
    microbatch_size: int = 0
    """On CPUs, images that a core works on by itself, as many as its cache takes: for convolutions. 0 lets all cores
    work on the whole batch together: for matrix products."""
    devices: int | None = None
    """Devices that share a batch; by default all GPUs or TPUs, and on CPUs all cores where there are microbatches."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in; bfloat16 is for GPUs and TPUs. Parameters and losses are float32 in any case."""
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    """Optax optimiser."""
    learning_rate: float = 2e-3
    """Its rate, or the peak of it."""
    warmup_steps: int = 100
    """Steps over which the rate rises linearly from 0, at most a tenth of the training."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """What the rate does then: stay, fall to 0 along a line, or to 1 % along a cosine."""
    clip_norm: float = 0.0
    """Largest global norm of the gradient; 0 for none."""
    ema_decay: float = 0.0
    """Decay of the averaged parameters that evaluation and sampling use; 0 for none."""
    seed: int = 0
    """Seed of everything random: the same seed gives the same bits on the same machine."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained; whole numbers given for floats become floats.

        Raises:
            UserError: a value of another type, or out of its range.
        """
        for name, hint in get_type_hints(Config).items():
            value = getattr(self, name)
            if hint is float and type(value) is int:
                object.__setattr__(self, name, float(value))
            elif not _has_type(value, hint):
                raise UserError(f"{_flag(name)} is {value!r}, which is not {_type_name(hint)}.")
        for name in (
            "latent_dim",
            "levels",
            "num_samples",
            "epochs",
            "devices",
            "batch_size",
            "kl_cycles",
            "learning_rate",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{_flag(name)} must be greater than 0, not {value}.")
        for name in (
            "beta",
            "microbatch_size",
            "kl_warmup_epochs",
            "warmup_steps",
            "clip_norm",
            "binarize_seed",
            "seed",
        ):
            if not getattr(self, name) >= 0:
                raise UserError(f"{_flag(name)} must not be negative: {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"--ema-decay must be at least 0 and below 1, not {self.ema_decay}.")
        if self.kl_warmup_epochs * self.kl_cycles > self.epochs:
            raise UserError(
                f"{self.kl_cycles} KL warm-up(s) of {self.kl_warmup_epochs:g} epochs do not end within {self.epochs} "
                "epochs, so beta would never reach its value: lower --kl-warmup-epochs or raise --epochs."
            )
        if not self.has_own_objective and self.objective not in OBJECTIVES:
            raise UserError(
                f"--objective {self.objective}: there are {', '.join(OBJECTIVES)}; your own is my_module:my_objective."
            )
        if self.conditional and self.prior != "normal":
            raise UserError(
                f"--conditional has a normal prior for each label: it does not go with --prior {self.prior}."
            )
        if self.objective in ("beta_tcvae", "dip_vae_i", "dip_vae_ii"):
            known = ("diagonal", "full") if self.objective == "dip_vae_i" else ("diagonal",)
            if self.levels > 1 or self.posterior not in known:
                raise UserError(
                    f"--objective {self.objective} compares latent dimensions one by one: it goes with "
                    f"--levels 1 and --posterior {' or '.join(known)}."
                )
        if self.objective not in WEIGHTED and (self.beta, self.kl_warmup_epochs, self.kl_cycles) != (1.0, 0.0, 1):
            raise UserError(
                f"--beta, --kl-warmup-epochs and --kl-cycles belong to --objective {' and '.join(WEIGHTED)}, "
                f"not to {self.objective}."
            )

    @property
    def has_own_objective(self) -> bool:
        """Whether the objective is a function of the user's, which has to be named again to go on with a run."""
        return ":" in self.objective


_CONVOLUTIONAL = Config(
    preset="tutorial_conv",
    epochs=2,
    batch_size=32,
    microbatch_size=8,
    optimizer="muon",
    learning_rate=1e-2,
    warmup_steps=50,
    schedule="linear",
)
RECIPES: Mapping[str, Config] = {
    "gated_mlp": Config(),
    "residual_conv": replace(_CONVOLUTIONAL, preset="residual_conv"),
    "tutorial_conv": _CONVOLUTIONAL,
    "tutorial_dense": Config(preset="tutorial_dense", epochs=15),
}
SWEPT = ("learning_rate", "beta", "seed")  # what members of one program may have of their own


def member_names(configs: Sequence[Config]) -> list[str]:
    """What tells members of one program apart, as names of their directories: "beta-2-seed-0".

    Raises:
        UserError: they differ in something else, or not at all.
    """
    first = configs[0]
    for config in configs:
        own = {name: getattr(config, name) for name in SWEPT}
        if replace(first, **own) != config:
            raise UserError(f"Members of one program may differ in {', '.join(SWEPT)} only.")
    names = ["-".join(f"{name.replace('_', '-')}-{value:g}" for name, value in own) for own in _varied(configs)]
    if len(set(names)) < len(configs):
        raise UserError("Members of one program must differ in their learning rate, beta or seed.")
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


def write_config(path: Path, config: Config, image_shape: tuple[int, int, int]) -> None:
    """Write `config.json`: everything that is needed to build the model again."""
    content = {"format": FORMAT, "image_shape": image_shape, **asdict(config)}
    path.write_text(json.dumps(content, indent=2) + "\n")


def read_config(path: Path) -> tuple[Config, tuple[int, int, int]]:
    """Read `config.json`.

    Raises:
        UserError: missing, damaged, of another program, or of a newer version of this one.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path.parent} is no run directory: it has no {path.name}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is damaged or of another program.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise UserError(f"{path} has format {found}, this version of flax_vae reads format {FORMAT}.")
    shape = content.pop("image_shape", None)
    del content["format"]
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise UserError(f"{path} is damaged: image_shape is {shape}, not three positive integers.")
    return _config_from(content, path), (shape[0], shape[1], shape[2])


def _config_from(content: dict[str, Any], path: Path) -> Config:
    names = [field.name for field in fields(Config)]
    for name in content:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise UserError(f"{path} has the unknown entry {name!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
    try:
        return Config(**content)
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from None
