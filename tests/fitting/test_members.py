"""Several trainings in one program: each gives the result of training it alone."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from interruptions import interrupt_at
from run_directories import assert_same_run

from flax_vae import Config, Run, UserError, fit, fit_many, load_run, resume_many
from flax_vae.fitting.loop import Interrupted

pytestmark = pytest.mark.usefixtures("without_pictures")

STEPS = 12  # of an epoch


@pytest.fixture(scope="module")
def configs(few_images: Path) -> list[Config]:
    config = Config(
        preset="tutorial_dense", dataset=str(few_images), epochs=2, batch_size=50, warmup_steps=0, schedule="constant"
    )
    return [replace(config, beta=1.0), replace(config, beta=4.0), replace(config, beta=4.0, seed=1)]


@pytest.fixture(scope="module")
def runs(configs: list[Config], tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        return fit_many(configs, tmp_path_factory.mktemp("runs") / "group")


@pytest.mark.parametrize("member", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_every_member_equals_the_run_alone(member: int, runs: list[Run], configs: list[Config], tmp_path: Path) -> None:
    assert [run.directory.name for run in runs] == ["beta-1-seed-0", "beta-4-seed-0", "beta-4-seed-1"]
    run, config = runs[member], configs[member]
    assert run.config == config == load_run(run.directory).config
    alone = fit(config, tmp_path / "alone")
    for record, expected in zip(run.metrics, alone.metrics, strict=True):
        for name in ("train_loss", "test_loss", "test_rate", "test_distortion"):
            np.testing.assert_allclose(record[name], expected[name], rtol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), run.params, alone.params)


def test_the_summary_holds_mean_and_deviation_over_the_seeds(runs: list[Run]) -> None:
    summary = json.loads((runs[0].directory.parent / "summary.json").read_text())
    assert [(row["beta"], row["seeds"]) for row in summary] == [(1.0, [0]), (4.0, [0, 1])]
    losses = [run.metrics[-1]["test_loss"] for run in runs[1:]]
    assert summary[1]["test_loss"] == pytest.approx({"mean": np.mean(losses), "sd": np.std(losses, ddof=1)})
    with pytest.raises(UserError, match=r"holds 3 runs: name one of them, such as .*beta-1-seed-0"):
        load_run(runs[0].directory.parent)
    assert (runs[0].directory.parents[1] / "latest").resolve() == runs[0].directory.parent.resolve()
    assert not (runs[0].directory.parent / "latest").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_member_that_diverges_does_not_change_the_others(
    backend: str,
    runs: list[Run],
    configs: list[Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Members train one after another, as on CPUs, and side by side, as on GPUs and TPUs."""
    monkeypatch.setattr("flax_vae.training.ensemble.jax.default_backend", lambda: backend)
    good, bad = configs[0], replace(configs[0], learning_rate=1e30)
    (left,) = fit_many([bad, good], tmp_path / "group")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), left.params, runs[0].params)
    reason = (tmp_path / "group" / "learning-rate-1e+30" / "failed.txt").read_text()
    assert reason.startswith("step 11 and the 9 before were skipped: loss is nan")
    err = capsys.readouterr().err
    assert "learning-rate-1e+30 stops. step 11" in err
    assert err.index("Model:     2 x tutorial_dense") < err.index("stops")  # said before the first step
    summary = json.loads((tmp_path / "group" / "summary.json").read_text())
    assert [(row["learning_rate"], row["seeds"], row["failed"]) for row in summary] == [
        (0.002, [0], []),
        (1e30, [], [0]),
    ]


@pytest.mark.slow
def test_an_error_ends_a_training_if_all_members_diverge(configs: list[Config], tmp_path: Path) -> None:
    bad = replace(configs[0], learning_rate=1e30)
    with pytest.raises(UserError, match="step 11 and the 9 before were skipped: loss is nan"):
        fit_many([bad, replace(bad, seed=1)], tmp_path / "group")


@pytest.mark.slow
@pytest.mark.parametrize("last", [STEPS, STEPS + 5], ids=["after an epoch", "within an epoch"])
def test_interrupted_and_resumed_members_equal_uninterrupted_ones(
    runs: list[Run], configs: list[Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(last, patch, signal.SIGINT)
        with pytest.raises(Interrupted, match=r"--resume .*broken$"):
            fit_many(configs, tmp_path / "broken")
    for resumed, run in zip(resume_many(tmp_path / "broken"), runs, strict=True):
        assert_same_run(resumed, run)


@pytest.mark.slow
def test_members_killed_while_saving_resume_from_their_last_common_step(runs: list[Run], tmp_path: Path) -> None:
    copy = shutil.copytree(runs[0].directory.parent, tmp_path / "copy")
    shutil.rmtree(copy / "beta-4-seed-0" / "checkpoints" / str(2 * STEPS))
    for resumed, run in zip(resume_many(copy), runs, strict=True):
        assert_same_run(resumed, run)


@pytest.mark.slow
def test_members_that_stopped_early_do_not_change_when_the_others_are_resumed(
    configs: list[Config], tmp_path: Path
) -> None:
    def climbs(model, x, key, step):
        distortion = -model.infer(x, key).likelihood.log_prob(x)[0]
        return 2 * jax.lax.stop_gradient(distortion) - distortion, {}

    config = replace(configs[0], validation=1 / 6, epochs=6, early_stopping=2)
    rates = [replace(config, learning_rate=rate) for rate in (1e-12, 1e-3)]  # one stays, one gets worse
    runs = fit_many(rates, tmp_path / "group", objective=climbs)
    assert [run.metrics[-1]["epoch"] for run in runs] == [6, 3]
    shutil.rmtree(runs[0].directory / "checkpoints" / str(runs[0].metrics[-1]["step"]))  # killed in the last epoch
    for resumed, run in zip(resume_many(tmp_path / "group", objective=climbs), runs, strict=True):
        assert_same_run(resumed, run)


@pytest.mark.slow
def test_the_last_member_may_diverge_after_the_others_stopped_early(configs: list[Config], tmp_path: Path) -> None:
    def climbs_and_breaks(model, x, key, step):
        distortion = -model.infer(x, key).likelihood.log_prob(x)[0]
        breaks = (step >= 40) & (step < 60)  # from the fifth epoch on; evaluations are given step 60
        return jax.numpy.where(breaks, jax.numpy.nan, 2 * jax.lax.stop_gradient(distortion) - distortion), {}

    config = replace(configs[0], validation=1 / 6, epochs=6, early_stopping=2)
    rates = [replace(config, learning_rate=rate) for rate in (1e-12, 1e-3)]  # one stays, one gets worse
    (run,) = fit_many(rates, tmp_path / "group", objective=climbs_and_breaks)
    assert (run.config.learning_rate, run.metrics[-1]["epoch"]) == (1e-3, 3)


OWN = """
def penalised(model, x, key, step, weight):
    inference = model.infer(x, key)
    distortion = -inference.likelihood.log_prob(x)[0]
    return distortion if weight < 1 else weight * distortion**2, {} if weight < 9 else {"large": distortion}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an objective of the user's own, which branches on its float."""
    (tmp_path / "own_penalty.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_penalty:penalised"


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("field", "values", "names"),
    [
        ("objective", ("own_penalty:penalised(weight=1)", "own_penalty:penalised(weight=0.3)"), "weight-1 weight-0.3"),
        ("optimizer", ("adamw(b2=0.9)", "adamw(weight_decay=0.1)"), ""),
        ("objective", ("infovae", "infovae(weight=0.1)"), "weight-1000 weight-0.1"),
        ("objective", ("renyi(alpha=1)", "renyi(alpha=0.3)"), "alpha-1 alpha-0.3"),
        (
            "objective",
            ("elbo(beta=warmup(epochs=1, weight=3))", "elbo(beta=warmup(epochs=0.5, weight=3))"),
            "objective-beta-epochs-1 objective-beta-epochs-0.5",
        ),
        (
            "optimizer",
            ("split(adam(), encoder=adam(1e-3))", "split(adam(), encoder=adam(1e-4))"),
            "optimizer-encoder-learning-rate-0.001 optimizer-encoder-learning-rate-0.0001",
        ),
        ("schedule", ("cosine(end=0.5)", "cosine"), "end-0.5 end-0.01"),
        ("clip_norm", (10.0, 0.3), "clip-norm-10 clip-norm-0.3"),
        ("ema_decay", (0.5, 0.9), "ema-decay-0.5 ema-decay-0.9"),
        ("kl_warmup_epochs", (0.0, 1.0), "kl-warmup-epochs-0 kl-warmup-epochs-1"),
    ],
)
def test_members_may_differ_in_any_float_of_objective_and_optimisation(
    field: str, values: tuple, names: str, configs: list[Config], own: str, tmp_path: Path
) -> None:
    """The last member equals its run alone, bit for bit. The fault to catch is a float rounded as if it were an array.

    An array of 0.9 in float32 makes 1 - 0.9 another number, XLA multiplies constants first, and Python cannot branch.
    """
    base = {"epochs": 1, "batch_size": 50, "dataset": configs[0].dataset, "preset": "tutorial_dense", "seed": 3}
    members = [Config(**base, **{field: value}) for value in values]
    first, last = fit_many(members, tmp_path / "group")
    if names:
        assert f"{first.directory.name} {last.directory.name}" == names
    assert first.metrics[-1]["test_loss"] != last.metrics[-1]["test_loss"]
    assert_same_run(last, fit(members[-1], tmp_path / "alone"))


@pytest.mark.slow
def test_members_that_differ_in_arguments_resume_with_their_own(
    own: str, configs: list[Config], tmp_path: Path
) -> None:
    """The objective of the user's own is named once, and has the arguments that each member was trained with."""
    config = {"dataset": configs[0].dataset, "preset": "tutorial_dense", "epochs": 2, "batch_size": 50}
    members = [Config(**config, objective=f"{own}(weight={weight})") for weight in (1, 0.5)]
    runs = fit_many(members, tmp_path / "group")
    summary = json.loads((tmp_path / "group" / "summary.json").read_text())
    assert [(row["weight"], row["seeds"]) for row in summary] == [(0.5, [0]), (1, [0])]
    for run in runs:
        shutil.rmtree(run.directory / "checkpoints" / str(2 * STEPS))
    for text in (f"{own}(weight=7)", lambda model, x, key, step: None):
        with pytest.raises(UserError, match="members differ in arguments of `objective`: pass own_penalty:penalised"):
            resume_many(tmp_path / "group", objective=text)
    for resumed, run in zip(resume_many(tmp_path / "group", objective=own), runs[::-1], strict=True):
        assert_same_run(resumed, run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{}, {"epochs": 3}], "differ in `epochs`: 2 and 3"),
        ([{}, {"validation": 0.1}], r"differ in `validation`: 0.0 and 0.1"),
        ([{}, {"likelihood": "categorical"}], "differ in `likelihood`: bernoulli and categorical"),
        ([{}, {"schedule": "cosine(end=0.5)"}], r"differ in `schedule`: constant and cosine\(end=0.5\)"),
        ([{"objective": "free_bits"}, {"objective": "free_bits(per='dimension')"}], "differ in `objective` per: "),
        ([{"objective": "elbo(beta=warmup(1))"}, {"objective": "elbo"}], r"`objective` beta: elbo\(.* and elbo\."),
        ([{"objective": "m:f"}, {"objective": "m:f(weight=0.5)"}], r"differ in `objective` weight: m:f and m:f\("),
        ([{"seed": 1}, {"seed": 1}], "must differ"),
        ([{"ema_decay": 0.0}, {"ema_decay": 0.9}], "`ema_decay` 0 and 0.9 cannot train in one ensemble"),
        (
            [{"objective": f"own_penalty:penalised(weight={weight})"} for weight in (0.5, 9.5)],
            "`weight` 0.5 and 9.5 cannot train in one ensemble, .* the metrics",
        ),
    ],
)
def test_configurations_that_cannot_be_members_are_refused(
    changes: list[dict], message: str, configs: list[Config], own: str, tmp_path: Path
) -> None:
    config = {"dataset": configs[0].dataset, "preset": "tutorial_dense", "epochs": 2, "schedule": "constant"}
    with pytest.raises(UserError, match=message):
        fit_many([Config(**config | change) for change in changes], tmp_path / "group")
    assert not (tmp_path / "group").exists()


def test_runs_that_were_not_trained_together_are_not_resumed_together(runs: list[Run], tmp_path: Path) -> None:
    shutil.copytree(runs[0].directory, tmp_path / "mine")
    with pytest.raises(UserError, match="does not hold runs that were trained together"):
        resume_many(tmp_path)
