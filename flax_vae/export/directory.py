"""A trained model as a directory for others: its functions or its parameters, a model card, pictures, and sums.

The directory appears whole or not at all.
"""

import json
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from flax_vae.evaluation.samples import Request, new_images, reconstructions
from flax_vae.export.card import model_card
from flax_vae.export.formats import FORMATS, written
from flax_vae.export.functions import ModelFunction, model_functions
from flax_vae.export.stablehlo import PLATFORMS
from flax_vae.plots import save_image_grid
from flax_vae.runs.config_file import config_content
from flax_vae.runs.directory import refuse_used
from flax_vae.runs.hub import MODEL
from flax_vae.runs.records import Record
from flax_vae.runs.run import Run, write_run
from flax_vae.system.console import spinner
from flax_vae.system.errors import UserError
from flax_vae.system.files import new_directory, write_json

ExportFormat = Literal["stablehlo", "onnx", "safetensors"]
_SCHEMA = 1  # of export.json
_SUMS = "export.json"
_PICTURES = {"samples.png": new_images, "reconstructions.png": reconstructions}


def export_run(run: Run, format: ExportFormat, out: str | Path, title: str | None = None) -> Path:
    """Write a trained model as a directory.

    Args:
        run: the model.
        format: "stablehlo" or "onnx" for its functions (see `flax_vae.export.functions`), each compared with the model
            before it is written; "safetensors" for its parameters, which `load_run` opens.
        out: the directory, new or empty.
        title: of the model card; by default the name of the directory.

    Returns:
        The directory.

    Raises:
        UserError: it holds something, the extra is not installed, or the format cannot hold the model.
    """
    out = Path(out)
    refuse_used(out)
    with new_directory(out) as part:
        _fill(part, run, format, title or out.resolve().name)
    return out


def _fill(folder: Path, run: Run, format: ExportFormat, title: str) -> None:
    functions = model_functions(run.vae, run.params, run.examples.shape[1:], len(run.class_names))
    signatures: dict[str, Record] = {}
    if format in FORMATS:
        for function in functions:
            name = function.name + FORMATS[format].suffix
            with spinner(f"writing {name}"):
                (folder / name).write_bytes(written(function, FORMATS[format]))
            signatures[name] = _signature(function)
    else:
        write_run(run, folder / MODEL)
    with spinner("drawing"):
        for name, make in _PICTURES.items():
            save_image_grid(folder / name, *make(run, Request(min(10, len(run.examples)))))
    (folder / "README.md").write_text(model_card(run, title, format, functions, _PICTURES))
    about = _about(run, format)
    about["files"] = {
        path.name: {"sha256": _digest(path)} | signatures.get(path.name, {}) for path in sorted(folder.iterdir())
    }
    write_json(folder / _SUMS, about)


def _signature(function: ModelFunction) -> Record:
    return {"arguments": [asdict(each) for each in function.arguments], "result": asdict(function.result)}


def _about(run: Run, format: ExportFormat) -> Record:
    """What there is to know but the files."""
    packages = ("flax_vae", "jax", "jaxlib", *(FORMATS[format].packages if format in FORMATS else ()))
    return {
        "schema": _SCHEMA,
        "format": format,
        "platforms": PLATFORMS if format == "stablehlo" else None,
        "versions": {name: version(name) for name in packages},
        "class_names": run.class_names,
        "step": run.step,
        "data": run.data,
        "config": config_content(replace(run.config, data_dir=None), run.examples.shape[1:]),
    }


def verify_export(directory: str | Path) -> Record:
    """What `export.json` says of an exported model, whose files are all as they were written.

    Raises:
        UserError: it is no exported model, or a file is missing or altered.
    """
    directory = Path(directory)
    try:
        about = json.loads((directory / _SUMS).read_text())
        if about["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {about['schema']}, this version of flax_vae reads schema {_SCHEMA}")
        sums = {str(name): str(of_file["sha256"]) for name, of_file in about["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{directory / _SUMS} cannot be read ({error}): it is damaged, or of no exported model."
        ) from None
    for name, expected in sums.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing: the export is not whole.")
        if _digest(path) != expected:
            raise UserError(f"{path} is not as it was exported: its SHA-256 is another than {_SUMS} says.")
    return dict(about)


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
