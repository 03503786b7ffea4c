"""`flax-vae explore`: a page in which a model's latent space can be explored."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from flax_vae import __version__
from flax_vae.cli.exits import refuse_unwritable
from flax_vae.console import busy
from flax_vae.data import class_names
from flax_vae.explore import About, page
from flax_vae.machine import use_machine
from flax_vae.runs.directory import held_out_set
from flax_vae.runs.run import Run, load_run, run_data


@dataclass(frozen=True)
class Explore:
    """Write one HTML file, which needs no network, with a model's latent plane, live decoding, drawing, and samples."""

    run: tyro.conf.Positional[Path]
    """Run directory, as train.py wrote it; a .safetensors file; or pretrained:NAME."""
    out: Annotated[Path, tyro.conf.arg(aliases=("-o",))] = Path("explore.html")
    """HTML file to write."""

    def __call__(self) -> None:
        """Run the command."""
        refuse_unwritable(self.out, ".html")
        use_machine()
        run = load_run(self.run)
        data = run_data(run)
        test, names = data.test, run.class_names or class_names(data.test)
        with busy("encoding test images"):
            text = page(run.vae, run.params, data.batch(test), test.labels, names, about(run, test.name))
        self.out.write_text(text, encoding="utf-8")
        print(self.out)


def about(run: Run, data: str) -> About:
    """What the page says of a run.

    Args:
        run: the run.
        data: the name of its images.
    """
    config = run.config
    dimensions = f"{config.latent_dim} latent dimension{'s' * (config.latent_dim != 1)}"
    layers = f" in each of {config.levels} layers" * (config.levels > 1)
    given = " given the class" * config.conditional
    facts = {name: getattr(config, name) for name in ("preset", "likelihood", "prior", "posterior", "objective")}
    facts["step"] = f"{run.step:,}"
    for record in run.metrics:
        if record.get("step") == run.step:
            held_out = held_out_set(record)
            named = {f"{held_out} {term}": record.get(f"{held_out}_{term}") for term in ("loss", "rate", "distortion")}
            facts |= {name: f"{value:.2f}" for name, value in named.items() if value is not None}
    summary = f"A variational autoencoder of {data} with {dimensions}{layers}{given}."
    return About(Path(run.name).name.removeprefix("pretrained:"), summary, facts, __version__)
