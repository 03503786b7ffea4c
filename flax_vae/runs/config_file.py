"""The file `config.json`: everything needed to rebuild a model."""

import difflib
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from flax_vae.batches import ExampleShape
from flax_vae.data import ARRAYS
from flax_vae.pytrees import by_name, from_names
from flax_vae.runs import hub
from flax_vae.runs.config import Config
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_json

_FORMAT = 2  # of `config.json`; raised when an older program could misread a newer file


def write_config(path: Path, config: Config, image_shape: ExampleShape) -> None:
    """Write `config.json`: everything needed to rebuild the model."""
    write_json(path, config_content(config, image_shape))


def config_content(config: Config, image_shape: ExampleShape) -> dict[str, Any]:
    """Return the content that `parse_config` reads."""
    return {"format": _FORMAT, "image_shape": image_shape, **asdict(config)}


def shared_content(config: Config, image_shape: ExampleShape) -> dict[str, Any]:
    """Return the content for others to read: a data set on disk has its own name, without the folders that it is in."""
    path = Path(config.dataset)
    dataset = f"./{path.name}" if path.is_absolute() else config.dataset
    return config_content(replace(config, dataset=dataset, data_dir=None), image_shape)


def read_config(path: Path) -> tuple[Config, ExampleShape]:
    """Read `config.json`.

    Raises:
        UserError: missing, damaged, or written by another program or another version of this package.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        exported = path.with_name(hub.MODEL)
        advice = f" Name the file {exported} instead." if exported.is_file() else ""
        raise UserError(f"{path.parent} is not a run directory: it has no {path.name}.{advice}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is damaged, or another program wrote it.") from None
    config, shape = parse_config(content, path)
    for folder in path.absolute().parents[:2]:  # of the run, or of all members
        if Path(config.dataset).name == ARRAYS and (folder / ARRAYS).exists():  # wherever the run has moved
            return replace(config, dataset=str(folder / ARRAYS)), shape
    return config, shape


def parse_config(content: Any, path: Path) -> tuple[Config, ExampleShape]:
    """Return the configuration and the shape of an example in the content of a file.

    Args:
        content: the parsed JSON.
        path: the file, for error messages.

    Raises:
        UserError: damaged, or written by another version of this package.
    """
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        version = content.get("format") if isinstance(content, dict) else None
        raise UserError(f"{path} has format {version}, this version of flax_vae reads format {_FORMAT}.")
    shape = _shape(content.get("image_shape"))
    settings = {name: value for name, value in content.items() if name not in ("format", "image_shape")}
    if shape is None:
        written = content.get("image_shape")
        raise UserError(f"{path} is damaged: image_shape is {written!r:.100}, not the shape of an example.")
    settings.setdefault("resize", "stretch")  # of earlier versions
    names = [field.name for field in fields(Config)]
    for name in settings:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise UserError(f"{path} has the unknown entry {name!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
    try:
        return Config(**settings), shape
    except UserError as error:
        raise UserError(f"{path} cannot be used: {error}") from None
    except RecursionError:  # printing a value can recurse deeper than parsing it
        raise UserError(f"{path} cannot be used: an entry is nested too deeply.") from None


def _shape(written: Any, view: bool = False) -> ExampleShape | None:
    """Return the shape of an example, or of each of its views, given in JSON; None if it is not a shape."""
    if isinstance(written, list) and written and all(type(size) is int for size in written):
        sizes = 2**16 if len(written) == 3 else 2**31  # of images, or of vectors
        return tuple(written) if len(written) in (1, 3) and all(0 < size < sizes for size in written) else None
    if view or not isinstance(written, list | dict) or not written:
        return None
    views = {
        name: _shape(each, view=True)
        for name, each in by_name(tuple(written) if isinstance(written, list) else written).items()
    }
    return None if None in views.values() else from_names(views)
