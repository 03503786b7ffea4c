"""Files and directories that appear complete or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flax_vae.system.errors import UserError


def write_atomically(path: str | os.PathLike[str], save: Callable[[Path], object]) -> None:
    """Write a file atomically: `save` writes a temporary file beside the path, which then replaces the path.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path).expanduser()
    temporary = _beside(path)
    try:
        save(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON atomically, formatted like every other record.

    Raises:
        UserError: the file cannot be written.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text atomically; errors as for `write_json`."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """Create a directory atomically: yield a temporary directory to fill, which is renamed to the path at the end.

    If the path is an empty directory, it is kept, because it may be a mount point or somebody's working directory. The
    contents are moved into it in the order in which they were written.

    Raises:
        UserError: the directory cannot be written.
    """
    target = Path(path).expanduser().resolve()
    exists = target.is_dir()
    temporary = _beside(target / "new" if exists else target)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if exists:
            for child in sorted(temporary.iterdir(), key=lambda child: child.stat().st_mtime_ns):
                child.replace(target / child.name)
        else:
            temporary.replace(target)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A hidden name, unique to this process, with the same suffix: NumPy and others choose a format by it."""
    return path.with_name(f".{os.getpid()}-{path.name}")
