"""Open a trained model: a run directory, files, a pretrained model, or a model on the Hugging Face hub."""

from pathlib import Path

import flax.linen as nn

from flax_vae.runs import hub
from flax_vae.runs.artifact import SUFFIX, read_run
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.models import model_of, parameter_shapes
from flax_vae.runs.run import Run
from flax_vae.system.errors import UserError

PRETRAINED = Path(__file__).parents[1] / "pretrained"
_PREFIX = "pretrained:"


def load_run(where: str | Path, vae: nn.Module | None = None) -> Run:
    """Open a trained model for sampling. Reads arrays and JSON, and executes nothing that the files contain.

    Args:
        where: a run directory; a .safetensors file written by `write_run`; "pretrained:NAME", a model that comes with
            the package; or "hf://OWNER/NAME", optionally with "@REVISION", a model on the Hugging Face hub. The data
            set is not needed.
        vae: the model, if it is one of your own.

    Raises:
        UserError: not found, damaged, or of another model.
    """
    repository = hub.parse(where)
    name = str(repository or where)
    if name.startswith(_PREFIX):
        return read_run(pretrained(name.removeprefix(_PREFIX)), name, vae)
    if repository is not None:
        return read_run(hub.fetch(repository), name, vae)
    if Path(where).suffix == SUFFIX:
        return read_run(Path(where), name, vae)
    return _read_directory(RunDirectory(Path(where)), name, vae)


def pretrained(name: str) -> Path:
    """Return the file of a model that comes with the package.

    Raises:
        UserError: unknown name.
    """
    names = sorted(path.stem for path in PRETRAINED.glob(f"*{SUFFIX}"))
    if name not in names:
        raise UserError(f"No pretrained model is called {name!r}: choose from {', '.join(names)}.")
    return PRETRAINED / f"{name}{SUFFIX}"


def _read_directory(run: RunDirectory, name: str, vae: nn.Module | None) -> Run:
    if members := run.members():
        raise UserError(f"{run} holds {len(members)} runs: name one of them, such as {members[0]}.")
    config, shape = run.config()
    class_names, labels = run.labels() if config.conditional else ((), None)
    model = model_of(config, shape, vae)
    item = "averaged_params" if config.ema_decay else "params"
    step, trees = run.restore_best({item: parameter_shapes(model, shape, class_names)})
    return Run(
        name=name,
        directory=run.path,
        config=config,
        vae=model,
        params=trees[item],
        step=step,
        metrics=run.metrics(),
        data=run.data_checksums(),
        examples=run.examples(),
        class_names=class_names,
        labels=labels,
    )
