"""Export formats, one file each.

A new format is a new file in this folder: a function without arguments that returns a `Format`, registered by its name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flax_vae.evaluation.run import Run
from flax_vae.export.functions import ModelFunction
from flax_vae.parts import Parts, import_siblings


@dataclass(frozen=True)
class Format:
    """A format for exporting trained models.

    Attributes:
        name: its name in `FORMATS`, in `export.json` and among the tags of the model card.
        write: (folder, run, functions) -> {file name: function}. Writes the files of a model to a folder, and returns
            the files that hold a function.
        snippet: (sampler, run) -> Python code for the model card that draws ten images. It runs in the folder of the
            files.
        note: title -> a paragraph about the files for the model card; None for a table of the functions in the files.
        packages: packages that write and run the files, besides JAX. `export.json` records their versions.
        platforms: the platforms for which functions are compiled, or None if that does not apply.
    """

    name: str
    write: Callable[[Path, Run, Sequence[ModelFunction]], Mapping[str, ModelFunction]]
    snippet: Callable[[ModelFunction, Run], str]
    note: Callable[[str], str] | None = None
    packages: tuple[str, ...] = ()
    platforms: tuple[str, ...] | None = None


FORMATS = Parts("format", made=(Format, "a Format"))

import_siblings(__name__, __path__)
