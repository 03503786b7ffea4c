"""Files and directories that appear whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flax_vae.system.errors import UserError


def write_atomically(path: str | os.PathLike[str], save: Callable[[Path], object]) -> None:
    """Let `save` write a file beside the path, and move it there: nobody finds half of it, and a failure leaves none.

    Raises:
        UserError: it cannot be written.
    """
    part = _beside(Path(path))
    try:
        save(part)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a record as JSON, whole, in the one form that all files of a record have.

    Raises:
        UserError: it cannot be written.
    """
    write_atomically(path, lambda part: part.write_text(json.dumps(content, indent=2) + "\n"))


@contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """A directory to fill, which becomes the path once all is in it.

    An empty directory that is there already may be where somebody stands, or a volume: it stays, and what was filled
    is moved there, what was written last at the end.

    Raises:
        UserError: it cannot be written.
    """
    whole = Path(path).resolve()
    there = whole.is_dir()
    part = _beside(whole / "new" if there else whole)
    try:
        part.mkdir(parents=True)
        yield part
        if there:
            for child in sorted(part.iterdir(), key=lambda child: child.stat().st_mtime_ns):
                child.replace(whole / child.name)
        else:
            part.replace(whole)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A hidden name of this process; it keeps the suffix, by which NumPy and others go."""
    return path.with_name(f".{os.getpid()}-{path.name}")
