"""The evaluation of a run: `flax-vae evaluate`, and evaluation.json."""

import math
from dataclasses import asdict
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

from flax_vae.batches import take
from flax_vae.evaluation.figures import METRICS, REQUIREMENTS, in_order, measure, refuse_unusable
from flax_vae.evaluation.figures.latents import collapse_warning
from flax_vae.evaluation.pictures import draw_evaluation
from flax_vae.evaluation.plan import Plan
from flax_vae.evaluation.subject import Subject, make_subject
from flax_vae.metrics.likelihood import IMAGES_AT_ONCE
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.records import Record
from flax_vae.runs.run import StoredRun, read_run
from flax_vae.system.console import log
from flax_vae.system.errors import UserError
from flax_vae.system.memory import device_memory, require_memory
from flax_vae.system.settings import by_default

_REASONS = {  # why a metric is left out, by the need of data that is not met
    "classes": "have no labels, or labels of one class only",
    "images": "are not images",
}


@by_default
def evaluate(
    where: str | Path | StoredRun,
    plan: Plan = Plan(),
    model: nn.Module | str | None = None,
    part: Path | None = None,
) -> Record:
    """Evaluate a trained model on its test set; for a run directory, also write `evaluation.json` and two pictures.

    If the parameters of the run have been replaced, nothing is written: the evaluation in the directory is that of the
    stored parameters. The bounds of images are stored as soon as they are computed: an interrupted evaluation resumes
    from there.

    Args:
        where: a run, or its location, as for `load_run`.
        plan: the settings.
        model: the model, if it is one of your own; as for `load_run`.
        part: the file of partial results; by default one in the run directory. Nothing is stored for a model of your
            own, since a change of its code could not be detected.

    Raises:
        UserError: the run does not exist, its data cannot be loaded, there are fewer than two test images, or a figure
            is not finite; then nothing is written.
    """
    if jax.process_count() > 1:
        raise UserError("An evaluation runs in a single process: start it outside of the distributed job.")
    refuse_unusable(plan.metrics)
    run = where if isinstance(where, StoredRun) else read_run(where, model)
    _require_memory_for(plan)
    directory = None if run.directory is None or not run.is_stored else RunDirectory(run.directory)
    if part is None and directory is not None:
        part = directory.part_file
    is_own = model is not None or run.config.has_own_model
    subject = make_subject(run, plan, None if is_own else part)
    record = _measure_all(subject)
    if directory is not None:
        directory.write_evaluation(record)
        draw_evaluation(directory.pictures, record, take(subject.test.x, subject.chosen), subject.tightest_bound)
    subject.partial_results.delete()
    return record


def _measure_all(subject: Subject) -> Record:
    """Measure everything, metrics without requirements first: if the model diverged, the others never run."""
    run, plan, metrics = subject.run, subject.plan, in_order()
    record: Record = {
        "step": run.step,
        "seed": plan.seed,
        "images": len(subject.test),
        "binarize": plan.binarize or run.config.binarize,
        "binarize_seed": run.config.binarize_seed if plan.binarize is None else plan.binarize_seed,
        "defence": plan.defence and asdict(plan.defence),
    }
    record |= {name: measure(name, subject) for name in metrics if not METRICS.needs(name)}
    means = subject.statistics.get("posterior_mean", np.zeros(()))
    _require_finite(run, record | {"posterior_means": float(means.sum(dtype=np.float64))})
    for need, why in _REASONS.items():
        if not REQUIREMENTS[need](subject):
            names = ", ".join(name for name in metrics if need in METRICS.needs(name))
            log(f"Left out ({names}): the training {subject.train.kind} {why}.")
    record |= {name: measure(name, subject) for name in (*plan.metrics, *metrics) if name not in record}
    _require_finite(run, record)
    record["alarm"] = collapse_warning(record["elbo"]["rate"], record["dimension_rates"], record["layer_rates"])
    return record


def _require_memory_for(plan: Plan) -> None:
    """Raise UserError if the plan needs more memory than the device has."""
    num_samples, num_steps, available = max(plan.num_samples), plan.annealing_steps, device_memory()
    # In bytes: the weights of the draws and their ranks; the random numbers, betas and step sizes of the chains.
    require_memory(8 * IMAGES_AT_ONCE * num_samples, f"`num_samples` {num_samples}", "lower it", available)
    require_memory(12 * num_steps, f"`annealing_steps` {num_steps}", "lower it", available)


def _require_finite(run: StoredRun, record: Record) -> None:
    """Raise UserError if a figure is NaN or infinite."""
    bad = [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} is {value}"
        for path, value in jax.tree_util.tree_leaves_with_path(record)
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if bad:
        raise UserError(
            f"{run.name}: {', '.join(bad)}. The parameters of step {run.step} are damaged, or the training diverged."
        )
