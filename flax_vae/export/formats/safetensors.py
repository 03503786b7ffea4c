"""safetensors: the parameters, in the two files that `load_run` opens."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from flax_vae.evaluation.run import Run
from flax_vae.export.formats import FORMATS, Format
from flax_vae.export.functions import ModelFunction
from flax_vae.runs.config import MODEL_PARTS, example_of
from flax_vae.runs.hub import MODEL
from flax_vae.runs.run import write_run


@FORMATS.register("safetensors")
def safetensors() -> Format:
    """The model's parameters, for flax_vae."""
    return Format("safetensors", _write, _snippet, _note)


def _write(folder: Path, run: Run, functions: Sequence[ModelFunction]) -> Mapping[str, ModelFunction]:
    write_run(run, folder / MODEL)
    return {}


def _snippet(sampler: ModelFunction, run: Run) -> str:
    context = ", context=run.contexts[:10]" if run.class_names else ""
    names = [kind for kind in MODEL_PARTS if run.config.has_own(kind)]
    own = "".join(f', {"model" if kind == "preset" else kind}="{example_of(kind)}"' for kind in names)
    return f"""import jax
from flax_vae import load_run, sample

run = load_run("{MODEL}"{own})
images = sample(run.model, run.params, jax.random.key(0), 10{context})  # {(10, *sampler.result.shape[1:])}
"""


def _note(title: str) -> str:
    from_hub = f'`load_run("hf://{title}")` opens the model from the hub. ' if "/" in title else ""
    return (
        f"{from_hub}`{MODEL}` holds the parameters as float32 arrays and a few test images; `model.json` describes the "
        "model. `load_run` reads both as data: it executes nothing in them."
    )
