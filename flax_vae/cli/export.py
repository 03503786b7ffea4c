"""`flax-vae export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tyro

from flax_vae.export import hub
from flax_vae.export.directory import ExportFormat, export_run
from flax_vae.runs.directory import refuse_used
from flax_vae.runs.run import load_run
from flax_vae.system.console import print_result
from flax_vae.system.machine import use_machine


@dataclass(frozen=True)
class Export:
    """Write a trained model as a directory for others: functions or parameters, a model card, pictures, checksums."""

    examples: ClassVar[str] = """
examples:
  flax-vae export runs/latest --format stablehlo --out exported     functions for JAX alone, on CPUs, GPUs and TPUs
  flax-vae export pretrained:mlp --format onnx --out exported       functions for ONNX Runtime
  flax-vae export runs/latest --format safetensors --out exported --push OWNER/NAME
  flax-vae sample hf://OWNER/NAME                                   what was pushed, wherever you are
"""

    run: tyro.conf.Positional[Path]
    """Run directory, as train.py wrote it; a .safetensors file; pretrained:NAME; or hf://OWNER/NAME."""
    format: ExportFormat
    """stablehlo and onnx: encoder, decoder, sampler and log_likelihood as functions of arrays, for any number of
    images, each compared with the model before it is written. safetensors: the parameters, which flax_vae opens. onnx
    needs pip install 'flax_vae[onnx]'."""
    out: Path
    """Directory to write, new or empty."""
    push: str | None = None
    """Upload the directory to this repository of the Hugging Face hub, OWNER/NAME. Needs pip install 'flax_vae[hub]'
    and a token."""

    def __call__(self) -> None:
        """Run the command."""
        refuse_used(self.out)
        if self.push is not None:
            hub.refuse_unpushable(self.push)
        use_machine()
        print_result(export_run(load_run(self.run), self.format, self.out, self.push))
        if self.push is not None:
            print_result(hub.push(self.out, self.push))
