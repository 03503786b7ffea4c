"""Exported models as directories: the files of a format, a model card, pictures, and checksums in `export.json`."""

import json
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from flax_vae.evaluation.run import Run
from flax_vae.evaluation.samples import Request, new_images, reconstructions
from flax_vae.export.card import model_card
from flax_vae.export.formats import FORMATS, Format
from flax_vae.export.functions import model_functions
from flax_vae.plots import save_image_grid
from flax_vae.runs.config_file import shared_content
from flax_vae.runs.directory import refuse_used
from flax_vae.runs.records import Record
from flax_vae.system.console import spinner
from flax_vae.system.errors import UserError
from flax_vae.system.files import new_directory, write_json
from flax_vae.system.settings import by_default

_DESCRIPTION, _SCHEMA = "export.json", 1
_PICTURES = {"samples.png": new_images, "reconstructions.png": reconstructions}


@by_default
def export_run(run: Run, format: str, out: str | Path, title: str | None = None) -> Path:
    """Write a trained model as a directory, which appears complete or not at all.

    Args:
        run: the model.
        format: a format of `flax_vae.export.FORMATS`: "stablehlo" or "onnx" for the model's functions (see
            `flax_vae.export.model_functions`), each checked against the model before it is written; "safetensors" for
            its parameters, which `load_run` opens.
        out: the directory, new or empty.
        title: the title of the model card; by default the name of the directory.

    Returns:
        The directory.

    Raises:
        UserError: the format is unknown, the directory is not empty, an extra is not installed, or the format cannot
            express the model.
    """
    out, chosen = Path(out).expanduser(), FORMATS.make(format)
    run.refuse_views("An export")
    refuse_used(out)
    with new_directory(out) as part:
        _fill(part, run, chosen, title or out.resolve().name)
    return out


def _fill(folder: Path, run: Run, format: Format, title: str) -> None:
    """Write the files of an export to an empty folder, `export.json` last."""
    functions = model_functions(run.model, run.params, run.shape, len(run.class_names))
    files = format.write(folder, run, functions)
    pictures = _PICTURES if run.kind == "images" else {}
    with spinner("drawing"):
        for name, make in pictures.items():
            save_image_grid(folder / name, *make(run, Request(min(10, len(run.examples)))))
    (folder / "README.md").write_text(model_card(run, title, format, functions, files, pictures))
    signatures: dict[str, Record] = {
        name: {"arguments": [asdict(argument) for argument in function.arguments], "result": asdict(function.result)}
        for name, function in files.items()
    }
    about: Record = {
        "schema": _SCHEMA,
        "format": format.name,
        "platforms": format.platforms,
        "versions": {name: version(name) for name in ("flax_vae", "jax", "jaxlib", *format.packages)},
        "class_names": run.class_names,
        "step": run.step,
        "data": run.data,
        "config": shared_content(run.config, run.shape),
        "files": {
            path.name: {"sha256": _digest(path)} | signatures.get(path.name, {}) for path in sorted(folder.iterdir())
        },
    }
    write_json(folder / _DESCRIPTION, about)


@by_default
def verify_export(directory: str | Path) -> Record:
    """Check the files of an exported model, and return its `export.json`.

    Raises:
        UserError: the directory holds no exported model, or a file is missing or was modified.
    """
    directory = Path(directory).expanduser()
    description = directory / _DESCRIPTION
    try:
        about = json.loads(description.read_text())
        if about["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {about['schema']}, but this version of flax_vae reads schema {_SCHEMA}")
        checksums = {str(name): str(entry["sha256"]) for name, entry in about["files"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{description} cannot be read ({error}): it is damaged, or {directory} is not an exported model."
        ) from None
    for name, expected in checksums.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing, so the export is incomplete. Export the model again.")
        if _digest(path) != expected:
            raise UserError(f"{path} was modified: its SHA-256 does not match {_DESCRIPTION}. Export the model again.")
    return dict(about)


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()
