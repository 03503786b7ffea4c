"""A trained model as a page in which its latent space can be explored."""

from pathlib import Path

from flax_vae import __version__
from flax_vae.data import class_names
from flax_vae.explore import About, page
from flax_vae.runs.records import held_out_set
from flax_vae.runs.run import Run, run_data
from flax_vae.system.console import spinner
from flax_vae.system.files import write_atomically


def write_explorer(run: Run, path: str | Path) -> Path:
    """Write one HTML file, which opens in a browser without a network, with a model and its test images in it.

    Args:
        run: the model.
        path: of the file.

    Returns:
        The path.

    Raises:
        UserError: the test images cannot be had, or the page cannot compute what the model does.
    """
    data = run_data(run)
    test = data.test
    with spinner("encoding test images"):
        text = page(run.vae, run.params, data.batch(test), test.labels, class_names(test), about(run, test.name))
    path = Path(path)
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path


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
