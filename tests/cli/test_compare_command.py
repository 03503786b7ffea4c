"""`flax-vae compare`: its table, and the paths that a pattern names."""

import csv
import json
from pathlib import Path

import pytest

from flax_vae import Config
from flax_vae.cli.main import main
from flax_vae.runs.config_file import write_config

BOUND = {
    "log_likelihood": -228.85,
    "standard_error_of_draws": 0.03,
    "standard_error_of_binarization": 0.04,
    "standard_error_of_images": 9.0,
}
EVALUATION = {"importance_weighted": [BOUND], "latent_dim": 40, "active_units": 32}
FRECHET = {"distance": 13.75, "standard_error_of_draws": 0.13}


def make_run(
    name: str, *, evaluated: bool, checksum: str = "a", shape: tuple[int, ...] = (28, 28, 1), **terms: float
) -> str:
    """Make a run as far as `compare` reads it."""
    Path(name).mkdir(parents=True)
    write_config(Path(name, "config.json"), Config(epochs=400), shape)
    Path(name, "provenance.json").write_text(json.dumps({"data": {"train": checksum, "test": checksum}}))
    record = {"epoch": 388, "step": 5, "seconds": 12345.0, "test_loss": 1234.5, **terms}
    Path(name, "metrics.jsonl").write_text(json.dumps(record) + "\n")
    if evaluated:
        evaluation = EVALUATION | {"step": 5, "frechet": FRECHET}
        Path(name, "evaluation.json").write_text(json.dumps(evaluation))
    return name


@pytest.mark.quick(1)
@pytest.mark.parametrize("width", [80, 100, 120])
def test_names_and_numbers_are_whole_at_usual_widths(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of thirty letters, and the figures of the package's own runs and of a loss of the user's.

    A figure has the error of its repetition beside it, from draws and binarisation.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(width))
    first = make_run("a" * 30, evaluated=True, test_rate=19.37, test_distortion=1215.13)
    second = make_run("b" * 30, evaluated=False)
    assert main(["compare", first, second]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()[:-1]
    assert max(map(len, lines)) <= width
    words = [line.split() for line in lines]
    titles = ["epoch", "seconds", "loss", "rate", "distortion", "IW", "bound", "active", "Fréchet"]
    numbers = ["388/400", "12345", "1234.50", "19.37", "1215.13", "-228.85±0.05", "32/40", "13.75±0.13"]
    rest = ["388/400", "12345", "1234.50", *5 * "-"]
    beside = [["run", *titles], [first, *numbers], [second, *rest]]
    above = [["run"], titles, [first], numbers, [second], rest]
    assert words == (beside if width >= 120 else above)
    assert len({len(line) for line in lines if "epoch" in line or "/400" in line}) == 1  # columns are aligned
    measured = "the bound, the active units and the Fréchet distance"
    assert err == f"Not evaluated: {second}. flax-vae evaluate RUN measures {measured}.\n"


@pytest.mark.parametrize(
    ("errors", "shown"),
    [({}, "-228.85"), ({"draws": 0.02, "binarization": None}, "-228.85±0.02"), ({"images": 9.0}, "-228.85")],
)
def test_a_figure_of_an_earlier_version_has_the_errors_that_were_stored(
    errors: dict[str, float | None],
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flax_vae.evaluation.tables.save_figure", lambda *_: None)
    run = make_run("a", evaluated=False)
    bound = {"log_likelihood": -228.85} | {f"standard_error_of_{cause}": error for cause, error in errors.items()}
    Path(run, "evaluation.json").write_text(json.dumps({"step": 5, "importance_weighted": [bound]}))
    assert main(["compare", run]) == 0
    assert shown in capsys.readouterr().out.split()


def test_the_picture_names_the_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses of vectors are not per image."""
    monkeypatch.chdir(tmp_path)
    nouns = []
    monkeypatch.setattr("flax_vae.evaluation.tables.plot_comparison", lambda _, noun: nouns.append(noun))
    monkeypatch.setattr("flax_vae.evaluation.tables.save_figure", lambda *_: None)
    images, vectors = make_run("a", evaluated=True), make_run("b", evaluated=True, shape=(6,))
    for names in ([images], [vectors], [images, vectors]):
        assert main(["compare", *names]) == 0
    assert nouns == ["image", "example", "example"]


def test_runs_of_different_data_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their losses stand side by side as if they could be compared."""
    monkeypatch.chdir(tmp_path)
    for name, checksum in {"a": "1", "b": "1", "c": "2"}.items():
        make_run(name, evaluated=True, checksum=checksum)
    warnings = []
    for runs in (["a", "b"], ["a", "b", "c"]):
        assert main(["compare", *runs]) == 0
        warnings.append(capsys.readouterr().err)
    assert warnings == [
        "",
        "WARNING: the data checksums of a and c differ: losses on different data cannot be compared.\n",
    ]


def test_a_pattern_may_name_more_than_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kind: paths beside runs, such as an ensemble, its summary.json, and the link to the latest run."""
    monkeypatch.chdir(tmp_path)
    runs = [make_run(f"sweep/{name}", evaluated=False) for name in ("seed-0", "run")]
    Path("sweep/summary.json").write_text("{}")
    assert main(["compare", *sorted(map(str, Path("sweep").iterdir()))]) == 0
    table = capsys.readouterr().out
    assert {line.split()[0] for line in table.splitlines()} >= set(runs)
    assert "sweep/summary.json" not in table
    Path("latest").symlink_to("sweep/run")
    assert main(["compare", *runs[::-1], "sweep", "latest"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(table.splitlines())
    assert main(["compare", "sweep/run"]) == 0
    assert main(["compare", "sweep/summary.json"]) == 2
    assert "sweep/summary.json is a file: name run directories." in capsys.readouterr().err


def test_figures_go_to_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON on standard output, where nothing else is then printed, and as a CSV file."""
    monkeypatch.chdir(tmp_path)
    runs = [make_run("a", evaluated=True, test_rate=19.37), make_run("b", evaluated=False)]
    assert main(["compare", *runs, "--json", "-", "--csv", "runs.csv"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["run"], first["loss"], first["rate"], first["iw_bound"]) == ("a", 1234.5, 19.37, -228.85)
    assert first["iw_bound_error"] == pytest.approx(0.05)
    assert second["iw_bound"] is None
    with Path("runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["loss"] for row in rows] == ["1234.5", "1234.5"]
    assert rows[0].keys() == first.keys()
    assert main(["compare", *runs, "--csv", "runs.csv"]) == 2
    assert "--csv runs.csv already exists" in capsys.readouterr().err
    assert main(["compare", *runs, "--csv", "-", "--json", "-"]) == 2
