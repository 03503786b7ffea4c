"""Parts of a long computation, kept in a file: begun again, it goes on from there."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_vae.data.arrays import open_npz
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically


class Kept:
    """Arrays by name, which are computed once for all that they depend on.

    Args:
        path: the file, or None to keep nothing.
        of: what they depend on, a tree of arrays and values. A file of anything else is written anew.
    """

    def __init__(self, path: Path | None, of: Any) -> None:
        """Read those that there are."""
        self._path, self._of, self._parts = path, np.array(_digest(of)), dict[str, np.ndarray]()
        if path is not None and path.exists():
            try:
                with open_npz(path) as found:
                    if found["of"] == self._of:
                        self._parts = {name: found[name] for name in found if name != "of"}
            except UserError:
                self._parts = {}  # cut off, or a stranger's: it is computed again

    def __call__(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of this name, which is computed and kept where it is not there yet."""
        if name not in self._parts:
            self._parts[name] = compute()
            self._write()
        return self._parts[name]

    def _write(self) -> None:
        if self._path is not None:
            write_atomically(self._path, lambda part: np.savez(part, of=self._of, allow_pickle=False, **self._parts))

    def forget(self) -> None:
        """Remove the file, once what was computed stands elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _digest(of: Any) -> str:
    """The same for equal trees, whatever process makes it."""
    found = sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(of)):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(leaf.tobytes() if isinstance(leaf, np.ndarray) else repr(leaf).encode())
    return found.hexdigest()
