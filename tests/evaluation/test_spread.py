"""The standard errors of an evaluation, against figures of many seeds."""

from pathlib import Path

import jax
import numpy as np
import pytest

from flax_vae import Config, Run, fit, log_likelihood
from flax_vae.evaluation.figures import report
from flax_vae.evaluation.figures.likelihood import elbo, importance_weighted
from flax_vae.evaluation.plan import Plan
from flax_vae.evaluation.subject import make_subject
from flax_vae.metrics.per_example import per_example_statistics
from flax_vae.runs.run import run_data

pytestmark = pytest.mark.usefixtures("without_pictures")

SEEDS, SAMPLES = range(8), 5
PLAN = Plan(num_samples=(SAMPLES,), num_images=60)


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(preset="tutorial_dense", dataset=str(few_images), epochs=8, batch_size=50, binarize="fixed")


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        return fit(config, tmp_path_factory.mktemp("runs") / "binary")


def deviation(values: list[np.ndarray]) -> float:
    """Return the standard deviation of an image's value, in the root mean square over the images."""
    return float(np.sqrt(np.var(values, axis=0, ddof=1).mean()))


@pytest.mark.slow
def test_errors_by_repetition_are_those_over_many_seeds(run: Run) -> None:
    def elbos(seed: int, binarize_seed: int) -> np.ndarray:
        images = run_data(run, "fixed", binarize_seed).test.x
        return per_example_statistics(run.model, run.params, images, jax.random.key(seed))["elbo"]

    def bounds(seed: int) -> np.ndarray:
        return np.asarray(log_likelihood(run.model, run.params, subject.chosen_batch, jax.random.key(seed), SAMPLES)[0])

    subject = make_subject(run, PLAN, None)
    by_draws, by_both = (deviation([elbos(seed, seed * other) for seed in SEEDS]) for other in (0, 1))
    means, (row,) = elbo(subject), importance_weighted(subject)
    by_binarization = np.sqrt(by_both**2 - by_draws**2)
    np.testing.assert_allclose(10 * means["standard_error_of_draws"], by_draws, rtol=0.25)  # the test set has 100
    np.testing.assert_allclose(10 * means["standard_error_of_binarization"], by_binarization, rtol=0.25)
    by_draws = deviation([bounds(seed) for seed in SEEDS]) / np.sqrt(60)
    np.testing.assert_allclose(row["standard_error_of_draws"], by_draws, rtol=0.3)
    np.testing.assert_allclose(row["standard_error_of_binarization"], by_binarization / np.sqrt(60), rtol=0.25)


@pytest.mark.slow
def test_grey_images_have_no_error_of_binarisation(run: Run) -> None:
    subject = make_subject(run, Plan(num_samples=(SAMPLES,), num_images=60, binarize="none"), None)
    means = elbo(subject)
    assert means["standard_error_of_draws"] > 0
    assert means["standard_error_of_binarization"] is None
    figure = next(figure for figure in report({"elbo": means}) if figure.name == "ELBO")
    assert figure.note == f"± {means['standard_error_of_draws']:.2f} by the draws"
