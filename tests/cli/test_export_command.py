"""The command `flax-vae export`."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from flax_vae import load_run, verify_export
from flax_vae.cli.main import main
from flax_vae.export.formats import FORMATS


@pytest.mark.slow
def test_exported_onnx_files_run_in_onnx_runtime(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    assert main(["export", str(trained[0]), "--format", "onnx", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(out)]
    verify_export(out)
    run = load_run(trained[0])
    x = run.examples[:5].astype(np.float32) / 255
    sessions = {path.stem: onnxruntime.InferenceSession(path) for path in out.glob("*.onnx")}
    (z,) = sessions["encoder"].run(None, {"x": x, "noise": np.zeros((5, 2), np.float32)})
    (again,) = sessions["decoder"].run(None, {"z": z})
    assert np.square(again - x).mean() < 0.7 * np.square(x.mean(0) - x).mean()
    noise = np.random.default_rng(0).normal(size=(20, 5, 2)).astype(np.float32)
    (bound,) = sessions["log_likelihood"].run(None, {"x": x, "noise": noise})
    assert bound.shape == (5,)
    assert (bound > -600).all()
    assert (bound < 0).all()


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["export", "--help"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    for word in (f"--format {{{','.join(FORMATS)}}}", "--out", "--push", "flax-vae export runs/latest --format"):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "OUT"], "nowhere is not a run directory"),
        (["RUN", "--out", "FULL"], "is not empty: choose another directory."),
        (["RUN", "--out", "OUT", "--push", "no-owner"], "--push no-owner: write OWNER/NAME"),
        (["pretrained:nothing", "--out", "OUT"], "No pretrained model is called 'nothing'"),
        (["hf://no-owner", "--out", "OUT"], "write hf://OWNER/NAME"),
        (["RUN", "--out", "OUT", "--format", "onx"], "--format onx does not exist"),
    ],
)
def test_bad_input_is_reported_in_one_line_with_exit_code_two(
    arguments: list[str],
    message: str,
    trained: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("kept")
    words = {"RUN": str(trained[0]), "OUT": str(tmp_path / "out"), "FULL": str(tmp_path / "full")}
    assert main(["export", "--format", "safetensors", *(words.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
