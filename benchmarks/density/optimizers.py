"""Optimisers on two rows of the density table, at about equal seconds: the validation loss that each reaches.

    python benchmarks/density/optimizers.py

The epochs of each are such that all take about as long; one that diverges has no loss. Prints a table and writes
optimizers.json.
"""

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rows import GATED, LADDER, call

from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.records import Record

HERE = Path(__file__).parent
MODELS = {
    "mlp": f"{GATED} --batch-size 250 --skip-norm 3000 --kl-warmup-epochs 2",
    "ladder": f"{LADDER} --likelihood autoregressive(hidden=48) --kl-warmup-epochs 1 --ema-decay 0.99",
}
# Model, optimiser, its rates, epochs.
CANDIDATES = (
    ("mlp", "adam", (1e-3, 2e-3, 4e-3), 40),
    ("mlp", "adamax", (2e-3, 4e-3, 8e-3), 40),
    ("mlp", "muon", (5e-3, 1e-2, 2e-2), 10),
    ("ladder", "adam", (2e-3, 4e-3), 3),
    ("ladder", "adamax", (5e-3, 1e-2), 3),
    ("ladder", "muon", (5e-3, 1e-2), 3),
)


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = tuple(MODELS)
    out: Path = HERE / "optimizers.json"


def last_epoch(flags: str, run: RunDirectory) -> Record:
    """The metrics of the last epoch of a training, or nothing if it diverged."""
    try:
        call("train", *flags.split(), "--out", run)
    except subprocess.CalledProcessError:
        if not run.failure_file.exists():
            raise
        return {}
    return run.metrics()[-1]


def main(arguments: Arguments) -> None:
    """Train each, print and write."""
    found = json.loads(arguments.out.read_text())["runs"] if arguments.out.exists() else []
    found = [run for run in found if run["model"] not in arguments.models]
    for model, optimizer, rates, epochs in CANDIDATES:
        for rate in rates if model in arguments.models else ():
            with tempfile.TemporaryDirectory() as directory:
                flags = f"{MODELS[model]} --optimizer {optimizer} --learning-rate {rate} --epochs {epochs}"
                last = last_epoch(flags, RunDirectory(Path(directory)))
            run = {"model": model, "optimizer": optimizer, "rate": rate, "epochs": epochs, "flags": flags}
            reached = {name: last.get(name) for name in ("seconds", "validation_loss")}
            found.append(run | reached)
            print(f"{model:8}{optimizer:8}{rate:8}", *reached.values(), flush=True)
            report = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "runs": found}
            arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
