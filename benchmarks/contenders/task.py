"""What every contender is given, and how it is told to go: one JSON object a line, so that runs can take turns.

A contender is a program `python contenders/NAME.py TASK_FILE`. It builds its model from the task's parameters, says
`{"ready": true}`, and for each line `{"amount": n}` does n steps of training (or decodes n times) and answers with the
seconds and the mean loss in nats per image.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Task:
    """One thing to be fast at.

    Attributes:
        kind: "train" or "decode".
        model: "tutorial_conv" or "gated_mlp".
        batch_size: images per training step.
        images: uint8 "n 28 28 1", already shuffled; step i takes rows i * batch_size and on, and starts again after the
            last ones.
        latents: float32 "m d", what is decoded.
        params: the first parameters by name, such as "encoder.Conv_0.kernel", in flax_vae's layout.
    """

    kind: str
    model: str
    batch_size: int
    images: np.ndarray
    latents: np.ndarray
    params: dict[str, np.ndarray]

    def save(self, path: Path) -> None:
        """Write everything to one .npz file."""
        named: dict[str, Any] = {f"params.{name}": value for name, value in self.params.items()}
        about = np.array([self.kind, self.model, str(self.batch_size)])
        np.savez(path, about=about, images=self.images, latents=self.latents, **named)

    @classmethod
    def load(cls, path: str) -> "Task":
        """Read what `save` wrote."""
        with np.load(path) as file:
            params = {name.removeprefix("params."): file[name] for name in file.files if name.startswith("params.")}
            kind, model, batch_size = file["about"]
            return cls(str(kind), str(model), int(batch_size), file["images"], file["latents"], params)

    def batches(self, first_step: int, steps: int) -> np.ndarray:
        """Indices "steps batch" of the images of the next steps."""
        per_epoch = len(self.images) // self.batch_size
        rows = np.arange(first_step, first_step + steps) % per_epoch
        return (rows[:, None] * self.batch_size + np.arange(self.batch_size)).astype(np.int32)


def serve(prepare: Callable[[Task], Callable[[int], Any]]) -> None:
    """Answer on the standard output, which libraries then cannot write to, until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = prepare(Task.load(sys.argv[1]))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        loss = run(json.loads(line)["amount"])
        print(json.dumps({"seconds": time.perf_counter() - began, "loss": loss}), file=answers, flush=True)
