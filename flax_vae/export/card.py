"""The README.md of an exported model: a model card as the Hugging Face hub reads it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flax_vae.data import example_noun
from flax_vae.evaluation.figures import report
from flax_vae.evaluation.run import Run
from flax_vae.export.formats import Format
from flax_vae.export.functions import Argument, ModelFunction
from flax_vae.models.likelihoods import LIKELIHOODS
from flax_vae.runs.records import Record
from flax_vae.runs.run import evaluation_of

_BAR = r"\|"  # within a table
_TASK = "unconditional-image-generation"
_SPLITS = {"train": "training"}


def model_card(
    run: Run,
    title: str,
    format: Format,
    functions: Sequence[ModelFunction],
    files: Mapping[str, ModelFunction],
    pictures: Iterable[str],
) -> str:
    """Return the text of the model card.

    Args:
        run: the model.
        title: its name.
        format: the format of the exported files.
        functions: the functions of the model.
        files: the function in each file, by file name.
        pictures: file names of pictures in the same folder.
    """
    (sampler,) = (function for function in functions if function.name == "sampler")
    gallery = "\n".join(f"![{name.partition('.')[0]}]({name})\n" for name in pictures)
    notes = format.note(title) if format.note else _function_table(files)
    return f"""---
{_front_matter(run, title, format)}
---

# {title}

A variational autoencoder for {_described(run.shape)} from {_dataset(run)}, trained by flax_vae.

{gallery}
## Model

{_table(_model_rows(run))}

## Figures

{_figures(run)}

## Use

```python
{format.snippet(sampler, run)}```

{notes}
"""


def _front_matter(run: Run, title: str, format: Format) -> str:
    """Return the metadata as YAML, with values written as JSON, which is a subset of YAML."""
    tags = ["variational-autoencoder", "vae", "jax", "flax", format.name]
    data: dict[str, Any] = {"license": "mit", "library_name": "flax_vae", "tags": tags, "pipeline_tag": _TASK}
    if metrics := _metrics(run):
        dataset = {"name": _dataset(run), "type": _dataset(run), "split": "test"}
        result = {"task": {"type": _TASK}, "dataset": dataset, "metrics": metrics}
        data["model-index"] = [{"name": title, "results": [result]}]
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in data.items())


def _metrics(run: Run) -> list[Record]:
    """Return the figures of a run's evaluation that have a type on the hub, in its format."""
    return [
        {"type": figure.key, "name": f"{figure.title or figure.name}, {figure.unit}".strip(", "), "value": figure.value}
        for figure in report(evaluation_of(run) or {}, run.kind)
        if figure.key
    ]


def _figures(run: Run) -> str:
    """Return the figures of an evaluation as a table, and the images they were measured on."""
    evaluation = evaluation_of(run)
    if evaluation is None:
        return "Not evaluated."
    count, binarize = evaluation["images"], evaluation["binarize"]
    pixels = "" if binarize == "none" else f", binarised once with seed {evaluation['binarize_seed']}"
    values = {metric["name"]: metric["value"] for metric in _metrics(run)}
    table = _table((name, f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}") for name, value in values.items())
    return f"Measured by `flax-vae evaluate` on {count:,} test {example_noun(run.kind)}s{pixels}.\n\n{table}"


def _model_rows(run: Run) -> list[tuple[str, str]]:
    config = run.config
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(run.params))
    rows = [("preset", f"`{config.name_of('preset')}`")]
    if config.likelihood is not None:
        name = config.likelihood.partition("(")[0]
        meaning = f": {LIKELIHOODS.meaning(name)}" if name in LIKELIHOODS else ""
        rows.append(("likelihood", f"`{config.likelihood}`{meaning}"))
    rows += [(kind, f"`{part}`") for kind in ("prior", "posterior") if (part := getattr(config, kind)) is not None]
    rows += [
        ("latent dimensions, top layer first", ", ".join(map(str, run.latent_dims))),
        ("parameters", f"{count:,}"),
        ("objective", f"`{config.name_of('objective')}`" + ("" if config.beta is None else f", beta {config.beta:g}")),
        ("training", f"{config.optimizer}, batches of {config.batch_size}, {run.step:,} steps"),
        ("pixels", "unchanged" if config.binarize == "none" else f"binarised, {config.binarize}"),
        *((f"SHA-256 of the {_SPLITS.get(part, part)} images", f"`{digest}`") for part, digest in run.data.items()),
    ]
    return [*rows, ("classes", ", ".join(run.class_names))] if run.class_names else rows


def _function_table(files: Mapping[str, ModelFunction]) -> str:
    """Return a table of the files, with the inputs and the output of each function."""

    def described(argument: Argument) -> str:
        return f"`{argument.name}` ({', '.join(map(str, argument.shape))}): {argument.meaning}"

    rows = [
        (f"`{name}`", "; ".join(map(described, function.arguments)), described(function.result))
        for name, function in files.items()
    ]
    return _table(rows, ("file", "inputs", "output")) + (
        "\n\nAll arrays are float32; the number of images b and the number of draws k are arbitrary. `export.json` "
        "holds the same information for programs, with the SHA-256 of every file."
    )


def _table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...] = ("", "")) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', _BAR) for cell in line)} |" for line in lines)


def _dataset(run: Run) -> str:
    """Return the name of the data set, without the folders of its path."""
    return run.config.dataset.rstrip("/").rpartition("/")[2]


def _described(shape: tuple[int, ...]) -> str:
    if len(shape) == 1:
        return f"vectors of {shape[0]} values"
    height, width, channels = shape
    colours = "grey" if channels == 1 else "colour" if channels == 3 else f"{channels}-channel"
    return f"{height}x{width} {colours} images"
