"""Run every command of `flax-vae` once, with nothing installed but what the package requires.

The modules of all other distributions, among them those of the extras, cannot be imported: an environment without them
need not be made. In one that has none, nothing is hidden, and the results have to be the same:

    python3 -m venv bare && bare/bin/pip install . && bare/bin/python tests/without_extras.py DATA.npz EMPTY_FOLDER
"""

import contextlib
import io
import json
import os
import sys
import tomllib
from importlib.abc import MetaPathFinder
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Never

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1] / "pyproject.toml"  # what is installed may be of an earlier state
COMMANDS = [
    "train --dataset {data} --preset tutorial_dense(features=(8,)) --likelihood discretized_logistic "
    "--epochs 1 --batch-size 50 -o run",
    "prepare {data} prepared",
    "sample run",
    "sample run --sampler gmm -o gmm.png",
    "sample hf://nobody/nothing",
    "evaluate run --num-samples 2 --num-images 10",
    "compare run",
    "explore run",
    "export run --format stablehlo -o stablehlo",
    "export run --format safetensors -o safetensors",
    "export run --format safetensors --push nobody/nothing -o pushed",
    "export run --format onnx -o onnx",
    "compress run",
    "decompress run images.fvae -o back.npz",
]


class Hidden(MetaPathFinder):
    """Refuse to import modules."""

    def __init__(self, modules: set[str]) -> None:
        self._modules = modules

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self._modules:
            self._refuse(name)

    def _refuse(self, name: str) -> Never:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def required() -> set[str]:
    """Return the names of the distributions that the package requires without extras, and those that these require."""
    todo = list(map(Requirement, tomllib.loads(PROJECT.read_text())["project"]["dependencies"]))
    done = {("flax-vae", "")}
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in done or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
                continue
            done.add((name, extra))
            for text in distribution(name).requires or ():
                inner = Requirement(text)
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    inner.marker = None
                    todo.append(inner)
    return {name for name, _ in done}


def hide_all_but_required() -> None:
    names = required()
    owners = {module: set(map(canonicalize_name, owned)) for module, owned in packages_distributions().items()}
    hidden = {module for module, owned in owners.items() if not owned & names}
    for name in [name for name in sys.modules if name.partition(".")[0] in hidden]:
        del sys.modules[name]
    sys.meta_path.insert(0, Hidden(hidden))


def results(data: Path) -> dict[str, tuple[int, str]]:
    """Return the exit code of each command, and the last line of what it wrote to stderr."""
    import jax

    from flax_vae.cli.main import main

    jax.config.update = lambda *_: None  # commands set the number of devices, which is fixed after the first of them
    ends = {}
    for command in COMMANDS:
        with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
            code = main([word.format(data=data) for word in command.split()])
        ends[command] = (code, err.getvalue().strip().rpartition("\n")[2])
    return ends


if __name__ == "__main__":
    hide_all_but_required()
    file = Path(sys.argv[1]).resolve()
    os.chdir(sys.argv[2])
    print(json.dumps(results(file), indent=1))
