"""`flax-vae export`: a trained model for use elsewhere.

examples:
  flax-vae export runs/latest --format stablehlo --out exported     functions that need JAX and flatbuffers alone
  flax-vae export pretrained:mlp --format onnx --out exported       functions for ONNX Runtime
  flax-vae export runs/latest --format safetensors --out exported --push OWNER/NAME
  flax-vae sample hf://OWNER/NAME                                   use what was pushed, on any machine
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from flax_vae.cli.arguments import OutPath, OwnParts, RunPath
from flax_vae.export.directory import export_run
from flax_vae.export.formats import FORMATS
from flax_vae.runs import hub
from flax_vae.runs.directory import refuse_used
from flax_vae.system.console import print_result
from flax_vae.system.machine import use_machine

_FORMAT = tyro.conf.arg(
    metavar=f"{{{','.join(FORMATS)}}}",
    help="What to write. The functions are encoder, decoder, sampler and log_likelihood, on arrays of any number of "
    f"images; each is checked against the model before it is written.\n{FORMATS.help()}",
)


@dataclass(frozen=True)
class Export:
    """Write a directory for use elsewhere: a model's functions or parameters, a model card, pictures and checksums."""

    run: RunPath
    format: Annotated[str, _FORMAT]
    out: OutPath
    """Directory to write, new or empty."""
    push: str | None = None
    """Upload the directory to this repository of the Hugging Face hub, OWNER/NAME.
    Needs pip install 'flax_vae[hub]' and a token."""
    own: OwnParts = field(default_factory=OwnParts)

    def __call__(self) -> None:
        """Run the command."""
        FORMATS.load(self.format)  # imports a format of the user's own before work starts
        refuse_used(self.out)
        if self.push is not None:
            hub.refuse_unpushable(self.push)
        use_machine()
        print_result(export_run(self.own.load_run(self.run), self.format, self.out, self.push))
        if self.push is not None:
            print_result(hub.push(self.out, self.push))
