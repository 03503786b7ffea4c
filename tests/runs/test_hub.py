"""Models pushed to and loaded from a hub: the real client talks HTTP to a server on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import COMMIT, TOKEN, Hub, serve

from flax_vae import UserError, load_run, verify_export
from flax_vae.runs import hub as hub_files
from flax_vae.runs.run import pretrained

NAME = "someone/a-model"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve(Hub()) as server:
        yield server


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose hub is that server, with an empty cache."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return inherited | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}


def run(*words: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], env=env, capture_output=True, text=True, timeout=120)


# Opens each of the named models, and prints the outcome.
OPEN = """
import sys
from flax_vae import UserError, load_run, use_machine

use_machine()
for name in sys.argv[1:]:
    try:
        run = load_run(name)
        print("opened", run.name, run.config.preset, run.step)
    except UserError as error:
        print("refused", error)
"""


def test_a_pushed_model_opens_elsewhere(hub: Hub, environment: dict[str, str], tmp_path: Path) -> None:
    """The whole directory is uploaded; only the two files of the model are downloaded."""
    out = tmp_path / "exported"
    words = ("-m", "flax_vae", "export", "pretrained:mlp", "--format", "safetensors", "--out", out, "--push", NAME)
    done = run(*words, env=environment | {"HF_TOKEN": TOKEN})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(out), f"{hub.address}/{NAME}"]
    pushed = hub.repositories[NAME]
    assert pushed == {path.name: path.read_bytes() for path in out.iterdir()}
    assert f'load_run("hf://{NAME}")' in pushed["README.md"].decode()
    verify_export(out)

    pushed["setup.py"] = b"raise SystemExit('executed')"
    hub.requests.clear()
    names = [f"hf://{NAME}", f"hf://{NAME}@v1", f"hf://{NAME}@{COMMIT}"]
    done = run("-c", OPEN, *names, env=environment)
    run_ = load_run("pretrained:mlp")
    assert done.stdout.splitlines() == [f"opened {name} {run_.config.preset} {run_.step}" for name in names], (
        done.stderr
    )
    assert hub.fetched() == {"model.safetensors", "model.json"}

    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # unreachable: the model opens from the cache
    done = run("-m", "flax_vae", "sample", f"hf://{NAME}", "--out", tmp_path / "samples.png", env=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "samples.png").stat().st_size > 0


def test_a_model_that_cannot_be_opened_is_reported_in_one_line(hub: Hub, environment: dict[str, str]) -> None:
    model = pretrained("mlp")
    files = {f"model{suffix}": model.with_suffix(suffix).read_bytes() for suffix in (".safetensors", ".json")}
    about = json.loads(files["model.json"]) | {"format": 99}
    hub.repositories |= {
        "someone/else": {"README.md": b"another model"},
        "someone/half": {"model.safetensors": files["model.safetensors"]},
        "someone/damaged": files | {"model.safetensors": files["model.safetensors"][:-1]},
        "someone/newer": files | {"model.json": json.dumps(about).encode()},
        "someone/intact": files,
    }
    expected = {
        "hf://someone/nothing": "hf://someone/nothing: 404 Client Error",
        "hf://someone/intact@other": "hf://someone/intact@other: 404 Client Error",
        "hf://someone/else": "hf://someone/else has no model.safetensors",
        "hf://someone/half": "hf://someone/half has no model.json",
        "hf://someone/damaged": "does not have the checksum",
        "hf://someone/newer": "format is 99",
        "hf://someone": "hf://someone: write hf://OWNER/NAME",
    }
    lines = run("-c", OPEN, *expected, env=environment).stdout.splitlines()
    assert len(lines) == len(expected)
    for line, message in zip(lines, expected.values(), strict=True):
        assert line.startswith("refused "), line
        assert message in line
    offline = run("-c", OPEN, "hf://someone/intact", env=environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert "refused hf://someone/intact: the hub cannot be reached (ConnectError" in offline.stdout


def test_a_push_without_a_token_is_refused_before_the_export(environment: dict[str, str], tmp_path: Path) -> None:
    words = ["export", "pretrained:mlp", "--format", "safetensors", "--out", tmp_path / "exported", "--push", NAME]
    done = run("-m", "flax_vae", *words, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--push requires a token of the hub" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "exported").exists()


def test_a_push_that_the_hub_refuses_leaves_the_directory(
    hub: Hub, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "exported"
    words = ("-m", "flax_vae", "export", "pretrained:mlp", "--format", "safetensors", "--out", out, "--push", NAME)
    done = run(*words, env=environment | {"HF_TOKEN": "hf_of_somebody_else"})
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert f"{out} is written, but not pushed to {NAME}: " in error
    assert "401" in error
    verify_export(out)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub: pip install 'flax_vae\[hub\]'"):
        load_run("hf://someone/whole")


def test_a_path_with_a_collapsed_slash_is_parsed(tmp_path: Path) -> None:
    assert hub_files.parse(Path("hf://someone/a-model@v1")) == ("someone/a-model", "v1")
    assert hub_files.parse(tmp_path) is None
