"""A damaged or hostile `config.json` is refused at its first wrong value."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from refusals import assert_refused

from flax_vae import Config, UserError
from flax_vae.cli.sample import make_samples
from flax_vae.runs.config_file import config_content, read_config

NESTED = "[" * 200_000
TOO_DEEP = "maximum recursion depth exceeded" if sys.version_info < (3, 14) else "Stack overflow"


def config_with(change: dict[str, Any]) -> str:
    """The text of a config.json with changed entries."""
    return json.dumps(config_content(Config(), (28, 28, 1)) | change)


CONTENTS = {
    "nested": (NESTED, TOO_DEEP),
    "nested entry": (config_with({})[:-1] + f', "levels": {NESTED}', TOO_DEEP),
    "nested part": (config_with({"preset": f"gated_mlp({NESTED}"}), "is not a name or a call with literal arguments"),
    "levels": (config_with({"levels": 1_000_000}), "config.json cannot be used: `levels` must be at most 100"),
    "layers": (config_with({"posterior": "iaf(layers=1000000)"}), "layers must be at least 1 and at most 100"),
    "keep": (config_with({"keep": 10**30}), "`keep` must be at most 2,147,483,647"),
    "seed": (config_with({"seed": 2**70}), "--seed must be at most 4,294,967,295"),
    "image_shape": (config_with({"image_shape": [10**9, 10**9, 3]}), "image_shape is [1000000000, 1000000000, 3], not"),
    "no cycles": (config_with({"kl_cycles": 0, "kl_warmup_epochs": None}), "`kl_cycles` must be at least 1, not 0"),
    "epochs": (config_with({"epochs": 10**400, "kl_warmup_epochs": None}), "`epochs` must be at most 2,147,483,647"),
    "true": (config_with({"image_shape": [28, 28, True]}), "image_shape is [28, 28, True], not the shape of an"),
    "control": (config_with({"\x1b[31m": 1}), "has the unknown entry '\\x1b[31m'"),
    "newline": (config_with({"dataset\n": 1}), "has the unknown entry 'dataset\\n'; did you mean 'dataset'?"),
    "devices": (config_with({"devices": "x"}), "`devices` is 'x', which is not int or None"),
    "preset": (config_with({"preset": "mlp"}), "--preset mlp does not exist: choose from gated_mlp"),
    "prior": (config_with({"prior": 3}), "--prior is 3, which is not str"),
    "precision": (config_with({"precision": "float64"}), "'float64', which is not one of float32, bfloat16"),
    "infinite": (config_with({"beta": float("inf")}), "`beta` must be at most 3.4e+38, not inf"),
    "digits": (config_with({})[:-1] + f', "levels": {"9" * 5000}}}', "Exceeds the limit"),
    "format": ('{"format": 99}', "config.json has format 99, this version of flax_vae reads format 2"),
    "two sizes": (config_with({"image_shape": [28, 28]}), "image_shape is [28, 28], not the shape of an example"),
    "no object": ("[]", "config.json has format None"),
    "binary": ("\0\1", "config.json cannot be read"),
}


@pytest.mark.parametrize(("content", "message"), CONTENTS.values(), ids=CONTENTS)
@pytest.mark.usefixtures("unchecked_types")
def test_a_run_directory(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(content)
    monkeypatch.chdir(tmp_path)
    assert_refused(make_samples, ["run"], message, capsys)


@pytest.mark.parametrize("name", ["latent_dim", pytest.param("preset", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("unchecked_types")
def test_nested_lists_of_any_depth(name: str, tmp_path: Path) -> None:
    """At some depths a value can be read but not printed."""
    path, content = tmp_path / "config.json", config_with({name: "X"})
    for depth in range(500, 1000):
        path.write_text(content.replace('"X"', "[" * depth + "]" * depth))
        with pytest.raises(UserError, match=r"config\.json cannot be"):
            read_config(path)


def test_a_model_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "model.json").write_text(NESTED)
    monkeypatch.chdir(tmp_path)
    assert_refused(make_samples, ["model.safetensors"], TOO_DEEP, capsys)
