"""`flax-vae explore`: a page for exploring a model's latent space.

examples:
  flax-vae explore runs/latest                         writes explore.html; open it in a browser
  flax-vae explore pretrained:tutorial_conv -o plane.html
"""

from dataclasses import dataclass, field
from pathlib import Path

from flax_vae.cli.arguments import OutPath, Overwrite, OwnParts, RunPath, require_writable
from flax_vae.explore.write import write_explorer
from flax_vae.system.console import print_result
from flax_vae.system.machine import use_machine


@dataclass(frozen=True)
class Explore:
    """Write one HTML file with a model's latent plane, live decoding, drawing and samples; it needs no network."""

    run: RunPath
    out: OutPath = Path("explore.html")
    """HTML file to write."""
    overwrite: Overwrite = False
    own: OwnParts = field(default_factory=OwnParts)

    def __call__(self) -> None:
        """Run the command."""
        require_writable(self.out, self.overwrite or self.out == Explore.out, ".html")
        use_machine()
        print_result(write_explorer(self.own.load_run(self.run), self.out))
