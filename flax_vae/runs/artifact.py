"""A trained model as two files: parameters as safetensors, and their description as JSON.

Reading them parses arrays and JSON, and executes nothing.
"""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from flax_vae.nn.layers import ImageShape
from flax_vae.pytrees import flatten_by_name, names_tree
from flax_vae.runs.checkpoints import check_shapes
from flax_vae.runs.config_file import config_content, parse_config
from flax_vae.runs.models import model_of, parameter_shapes
from flax_vae.runs.run import Run, evaluation_of
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically, write_json

FORMAT = 1
SUFFIX = ".safetensors"
_PARAMS, _EXAMPLES, _LABELS = "params.", "examples", "labels"


def write_run(run: Run, path: str | Path, half: bool = False) -> Path:
    """Write a trained model as a .safetensors file, with its description in a .json file beside it, for `load_run`.

    Args:
        run: the model. A model of your own must be passed to `load_run` again.
        path: of the parameters.
        half: write the parameters in float16, which halves the file.

    Returns:
        The path of the parameters.
    """
    path, dtype = Path(path).with_suffix(SUFFIX), np.float16 if half else np.float32
    params = flatten_by_name(jax.device_get(run.params))
    arrays = {_PARAMS + name: np.ascontiguousarray(array, dtype) for name, array in params.items()}
    arrays[_EXAMPLES] = run.examples
    if run.labels is not None:
        arrays[_LABELS] = run.labels
    content = save(arrays)
    write_atomically(path, lambda part: part.write_bytes(content))
    description = {
        "format": FORMAT,
        "sha256": sha256(content).hexdigest(),
        "step": run.step,
        "class_names": run.class_names,
        "data": run.data,
        "config": config_content(replace(run.config, data_dir=None), run.examples.shape[1:]),
        "record": next((record for record in run.metrics if record["step"] == run.step), {}),
        "evaluation": evaluation_of(run),
    }
    write_json(path.with_suffix(".json"), description)
    return path


def read_run(path: Path, name: str, vae: nn.Module | None = None) -> Run:
    """Read the two files.

    Args:
        path: of the parameters.
        name: of the run.
        vae: the model, if it is one of your own.

    Raises:
        UserError: missing, damaged, of another version of this package, or of another model.
    """
    arrays, shape, fields = read_files(path)
    model = model_of(fields["config"], shape, vae)
    expected = parameter_shapes(model, shape, fields["class_names"])
    try:
        check_shapes(arrays, flatten_by_name(expected))
    except ValueError as error:
        raise UserError(f"{path} belongs to another model: {error}.") from None
    params = jax.tree.map(lambda name: jnp.asarray(arrays[name], jnp.float32), names_tree(expected))
    return Run(name=name, directory=None, vae=model, params=params, **fields)


def read_files(path: Path) -> tuple[dict[str, np.ndarray], ImageShape, dict[str, Any]]:
    """Read the parameters by their names, the shape of the images, and the other fields of `Run`.

    Raises:
        UserError: missing, damaged, or of another version of this package.
    """
    description = path.with_suffix(".json")
    try:
        about, content = json.loads(description.read_text()), path.read_bytes()
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']}, this version of flax_vae reads format {FORMAT}")
        if sha256(content).hexdigest() != about["sha256"]:
            raise ValueError(f"{path.name} does not have the checksum in {description.name}")
        arrays = load(content)
        config, shape = parse_config(about["config"], description)
        fields = {
            "config": config,
            "step": int(about["step"]),
            "metrics": [dict(about["record"])],
            "data": dict(about["data"]),
            "examples": arrays[_EXAMPLES],
            "class_names": tuple(about["class_names"]),
            "labels": arrays.get(_LABELS),
            "evaluation": about["evaluation"],
        }
        params = {name.removeprefix(_PARAMS): array for name, array in arrays.items() if name.startswith(_PARAMS)}
        return params, shape, fields
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is damaged, or not a model of flax_vae.") from None
