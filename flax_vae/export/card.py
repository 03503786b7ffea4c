"""The README.md of an exported model: a model card in the form that the Hugging Face hub reads."""

import json
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from flax_vae.evaluation.figures import report
from flax_vae.export.formats import FORMATS
from flax_vae.export.functions import Argument, ModelFunction
from flax_vae.models.likelihoods import LIKELIHOODS
from flax_vae.runs.records import Record
from flax_vae.runs.run import Run, evaluation_of

_BAR = r"\|"  # within a table
_TASK = "unconditional-image-generation"
_SNIPPETS = {
    "stablehlo": """from pathlib import Path

import numpy as np
from jax import export

sampler = export.deserialize(bytearray(Path("sampler.stablehlo").read_bytes())).call
noise = np.random.default_rng(0).normal(size=(10, {noise})).astype(np.float32)
images = np.asarray(sampler(noise{context}))  # {shape}
""",
    "onnx": """import numpy as np
import onnxruntime

sampler = onnxruntime.InferenceSession("sampler.onnx")
noise = np.random.default_rng(0).normal(size=(10, {noise})).astype(np.float32)
(images,) = sampler.run(None, {{"noise": noise{named_context}}})  # {shape}
""",
    "safetensors": """import jax
from flax_vae import load_run, sample, use_machine

use_machine()
run = load_run("model.safetensors")
images = sample(run.vae, run.params, jax.random.key(0), 10{given_context})  # {shape}
""",
}


def model_card(run: Run, title: str, format: str, functions: Iterable[ModelFunction], pictures: Iterable[str]) -> str:
    """The text of the file.

    Args:
        run: the model.
        title: its name.
        format: of what lies beside the file.
        functions: what the model computes.
        pictures: names of files beside it.
    """
    known = {function.name: function for function in functions}
    shown = "\n".join(f"![{name.partition('.')[0]}]({name})\n" for name in pictures)
    return f"""---
{_front_matter(run, title, format)}
---

# {title}

A variational autoencoder for {_described(run.examples.shape[1:])} images of {_dataset(run)}, trained by flax_vae.

{shown}
## Model

{_table(_model_rows(run))}

## Figures

{_figures(run)}

## Use

```python
{_snippet(run, known["sampler"], format)}```

{_functions(known.values(), format) if format in FORMATS else _safetensors(title)}
"""


def _front_matter(run: Run, title: str, format: str) -> str:
    """YAML, each value as JSON, which is a part of it."""
    tags = ["variational-autoencoder", "vae", "jax", "flax", format]
    data: dict[str, Any] = {"license": "mit", "library_name": "flax_vae", "tags": tags, "pipeline_tag": _TASK}
    if metrics := _metrics(evaluation_of(run)):
        dataset = {"name": _dataset(run), "type": _dataset(run), "split": "test"}
        result = {"task": {"type": _TASK}, "dataset": dataset, "metrics": metrics}
        data["model-index"] = [{"name": title, "results": [result]}]
    return "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in data.items())


def _metrics(evaluation: Record | None) -> list[Record]:
    """Return the figures of an evaluation that the hub has a type for, in its format."""
    figures = [figure for figure in report(evaluation) if figure.key] if evaluation else []
    return [
        {"type": figure.key, "name": f"{figure.title or figure.name}, {figure.unit}".strip(", "), "value": figure.value}
        for figure in figures
    ]


def _figures(run: Run) -> str:
    evaluation = evaluation_of(run)
    if evaluation is None:
        return "Not evaluated."
    count, drawn = evaluation["images"], evaluation["binarize"]
    pixels = "" if drawn == "none" else f", binarised once by seed {evaluation['binarize_seed']}"
    rows = [(metric["name"], f"{metric['value']:.4g}" if abs(metric["value"]) < 10 else f"{metric['value']:.2f}")
            for metric in _metrics(evaluation)]  # fmt: skip
    return f"Measured by `flax-vae evaluate` on {count:,} test images{pixels}.\n\n{_table(rows)}"


def _model_rows(run: Run) -> list[tuple[str, str]]:
    config = run.config
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(run.params))
    rows = [
        ("preset", f"`{config.preset}`"),
        ("likelihood", f"`{config.likelihood}`: {LIKELIHOODS.meaning(config.likelihood.partition('(')[0])}"),
        ("prior, posterior", f"`{config.prior}`, `{config.posterior}`"),
        ("latent dimensions, levels", f"{config.latent_dim}, {config.levels}"),
        ("parameters", f"{count:,}"),
        ("objective", f"`{config.objective}`" + ("" if config.beta is None else f", beta {config.beta:g}")),
        ("training", f"{config.optimizer}, batches of {config.batch_size}, {run.step:,} steps"),
        ("pixels", "as they are" if config.binarize == "none" else f"binarised, {config.binarize}"),
        *((f"SHA-256 of the {part} images", f"`{digest}`") for part, digest in run.data.items()),
    ]
    return [*rows, ("classes", ", ".join(run.class_names))] if run.class_names else rows


def _functions(functions: Iterable[ModelFunction], format: str) -> str:
    """Each file with what its function takes and gives."""

    def written(argument: Argument) -> str:
        return f"`{argument.name}` ({', '.join(map(str, argument.shape))}): {argument.meaning}"

    rows = [
        (f"`{each.name}{FORMATS[format].suffix}`", "; ".join(map(written, each.arguments)), written(each.result))
        for each in functions
    ]
    return _table(rows, ("file", "takes", "gives")) + (
        "\n\nAll arrays are float32; b images and k draws may be any number. `export.json` has the same for programs, "
        "with the SHA-256 of every file."
    )


def _safetensors(title: str) -> str:
    from_hub = f'`load_run("hf://{title}")` opens the model from the hub. ' if "/" in title else ""
    return (
        f"{from_hub}`model.safetensors` holds the parameters as float32 arrays and a few test images; `model.json` "
        "says what they belong to. Both are read as data: nothing in them is executed."
    )


def _snippet(run: Run, sampler: ModelFunction, format: str) -> str:
    """Ten new images, for the format; of a conditional model of its first class, or of the classes of test images."""
    values: dict[str, Any] = {
        "noise": sampler.arguments[0].shape[1],
        "shape": (10, *sampler.result.shape[1:]),
        "context": "",
        "named_context": "",
        "given_context": "",
    }
    if run.class_names:
        one_hot = f"np.eye({len(run.class_names)}, dtype=np.float32)[[0] * 10]"
        values |= {"context": f", {one_hot}", "named_context": f', "context": {one_hot}'}
        values["given_context"] = ", context=run.contexts[:10]"
    return _SNIPPETS[format].format(**values)


def _table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...] = ("", "")) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', _BAR) for cell in line)} |" for line in lines)


def _dataset(run: Run) -> str:
    """The name of the data, without the folders of whoever has them."""
    return run.config.dataset.rstrip("/").rpartition("/")[2]


def _described(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{height}x{width} {'grey' if channels == 1 else 'colour' if channels == 3 else f'{channels}-channel'}"
