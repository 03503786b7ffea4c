"""A file cache for the parts of a long computation, so that it can be resumed."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flax_vae.data.arrays import open_npz
from flax_vae.system.errors import UserError
from flax_vae.system.files import write_atomically


class PartialResults:
    """Named arrays, computed once for given inputs.

    Args:
        path: the file, or None to store nothing.
        inputs: a tree of arrays and values; a file made from other inputs is discarded.
    """

    def __init__(self, path: Path | None, inputs: Any) -> None:
        """Read the arrays that the file holds."""
        self._path, self._digest, self._arrays = path, np.array(_digest(inputs)), dict[str, np.ndarray]()
        if path is not None and path.exists():
            try:
                with open_npz(path) as stored:
                    if stored["of"] == self._digest:
                        self._arrays = {name: stored[name] for name in stored if name != "of"}
            except UserError:
                self._arrays = {}  # truncated or foreign: compute again

    def __call__(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the array of this name; if it is not stored yet, compute and store it."""
        if name not in self._arrays:
            self._arrays[name] = compute()
            if self._path is not None:
                arrays = {"of": self._digest, **self._arrays}
                write_atomically(self._path, lambda part: np.savez(part, allow_pickle=False, **arrays))
        return self._arrays[name]

    def delete(self) -> None:
        """Delete the file once the results are stored elsewhere."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _digest(tree: Any) -> str:
    """Return a hash that is equal for equal trees, in any process."""
    digest = sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(leaf.tobytes() if isinstance(leaf, np.ndarray) else repr(leaf).encode())
    return digest.hexdigest()
