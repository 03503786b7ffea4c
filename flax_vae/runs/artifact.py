"""A trained model in two files that can be shipped: parameters as safetensors, and what they belong to as JSON.

Reading them reads arrays and JSON, and executes nothing that they say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from flax_vae.models.vae import Params
from flax_vae.nn.layers import ImageShape
from flax_vae.runs.checkpoints import check_shapes, named, names
from flax_vae.runs.config import Config
from flax_vae.runs.config_file import config_content, parse_config
from flax_vae.runs.directory import Record
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically, write_json

FORMAT = 1
SUFFIX = ".safetensors"
PRETRAINED = Path(__file__).parents[1] / "pretrained"
_PARAMS, _EXAMPLES, _LABELS = "params.", "examples", "labels"


@dataclass(frozen=True)
class Artifact:
    """What the two files hold.

    Attributes:
        config, image_shape: what the model is built from.
        arrays: the parameters by their names in the module tree.
        step: the update after which the parameters were these.
        data: checksums of the images.
        record: the metrics of their epoch.
        evaluation: what `flax-vae evaluate` measured, or None.
        examples: a few uint8 test images "n h w c".
        class_names, labels: of a conditional model, its classes and the labels of the examples.
    """

    config: Config
    image_shape: ImageShape
    arrays: Mapping[str, np.ndarray]
    step: int
    data: Record
    record: Record
    evaluation: Record | None
    examples: np.ndarray
    class_names: tuple[str, ...] = ()
    labels: np.ndarray | None = None

    def params(self, like: Params) -> Params:
        """The parameters as a tree, in float32.

        Args:
            like: shapes of the model's parameters.

        Raises:
            ValueError: they are those of another model.
        """
        check_shapes(self.arrays, named(like))
        return jax.tree.map(lambda name: jnp.asarray(self.arrays[name], jnp.float32), names(like))


def pretrained(name: str) -> Path:
    """The file of a model that comes with the package.

    Raises:
        UserError: there is none of that name.
    """
    names = sorted(path.stem for path in PRETRAINED.glob(f"*{SUFFIX}"))
    if name not in names:
        raise UserError(f"There is no pretrained model {name!r}; there are {', '.join(names)}.")
    return PRETRAINED / f"{name}{SUFFIX}"


def write_artifact(path: Path, artifact: Artifact, half: bool = False) -> None:
    """Write the two files.

    Args:
        path: of the parameters, which ends in .safetensors; the other file is called .json instead.
        artifact: what to write.
        half: write parameters in float16.
    """
    kind = np.float16 if half else np.float32
    arrays = {_PARAMS + name: np.ascontiguousarray(array, kind) for name, array in artifact.arrays.items()}
    arrays[_EXAMPLES] = artifact.examples
    if artifact.labels is not None:
        arrays[_LABELS] = artifact.labels
    content = save(arrays)
    write_atomically(path, lambda part: part.write_bytes(content))
    about = {
        "format": FORMAT,
        "sha256": sha256(content).hexdigest(),
        "step": artifact.step,
        "class_names": artifact.class_names,
        "data": artifact.data,
        "config": config_content(replace(artifact.config, data_dir=None), artifact.image_shape),
        "record": artifact.record,
        "evaluation": artifact.evaluation,
    }
    write_json(path.with_suffix(".json"), about)


def read_artifact(path: Path) -> Artifact:
    """Read the two files.

    Raises:
        UserError: missing, damaged, or of another version of this program.
    """
    description = path.with_suffix(".json")
    try:
        about, content = json.loads(description.read_text()), path.read_bytes()
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']}, this version of flax_vae reads format {FORMAT}")
        if sha256(content).hexdigest() != about["sha256"]:
            raise ValueError(f"{path.name} does not have the checksum that {description.name} says")
        arrays = load(content)
        config, shape = parse_config(about["config"], description)
        return Artifact(
            config,
            shape,
            {name.removeprefix(_PARAMS): array for name, array in arrays.items() if name.startswith(_PARAMS)},
            int(about["step"]),
            dict(about["data"]),
            dict(about["record"]),
            about["evaluation"],
            arrays[_EXAMPLES],
            tuple(about["class_names"]),
            arrays.get(_LABELS),
        )
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is damaged, or no model of flax_vae.") from None
