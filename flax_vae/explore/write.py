"""Write a trained model as a page for exploring its latent space."""

from pathlib import Path

from flax_vae import __version__
from flax_vae.data import class_names
from flax_vae.evaluation.run import Run
from flax_vae.explore import About, page
from flax_vae.runs.records import held_out_set
from flax_vae.runs.run import run_data
from flax_vae.system.console import spinner
from flax_vae.system.files import write_atomically
from flax_vae.system.settings import by_default


@by_default
def write_explorer(run: Run, path: str | Path) -> Path:
    """Write a model and its test images as one HTML file, which opens in a browser without a network.

    Args:
        run: the trained model.
        path: the file to write.

    Returns:
        The path.

    Raises:
        UserError: the test images are unavailable, or the page does not support the model.
    """
    run.require_images("The explorer")
    data = run_data(run)
    test = data.test
    with spinner("encoding test images"):
        text = page(run.model, run.params, data.batch(test), test.labels, class_names(test), about(run, test.name))
    path = Path(path).expanduser()
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
    return path


def about(run: Run, data: str) -> About:
    """Return the texts about a run.

    Args:
        run: the trained model.
        data: the name of its data set.
    """
    config, dims = run.config, run.latent_dims
    dimensions = f"{dims[0]} latent dimension{'s' * (dims[0] != 1)}"
    layers = f" in {'each' if len(set(dims)) == 1 else 'the first'} of {len(dims)} layers" * (len(dims) > 1)
    condition = " given the class" * config.conditional
    parts = {name: getattr(config, name) for name in ("likelihood", "prior", "posterior")}
    facts = {name: config.name_of(name) for name in ("preset", "objective")}
    facts |= {name: text for name, text in parts.items() if text is not None}
    facts["step"] = f"{run.step:,}"
    for record in run.metrics:
        if record.get("step") == run.step:
            held_out = held_out_set(record)
            named = {f"{held_out} {term}": record.get(f"{held_out}_{term}") for term in ("loss", "rate", "distortion")}
            facts |= {name: f"{value:.2f}" for name, value in named.items() if value is not None}
    summary = f"A variational autoencoder of {data} with {dimensions}{layers}{condition}."
    return About(Path(run.name).name.removeprefix("pretrained:"), summary, facts, __version__)
