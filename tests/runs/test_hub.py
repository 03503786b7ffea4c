"""Models pushed to and loaded from a hub: the real client talks HTTP to a server on this machine."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loopback_hub import COMMIT, TOKEN, Hub, serve

from flax_vae import UserError, load_run, verify_export
from flax_vae.cli.main import main
from flax_vae.runs import hub as hub_files
from flax_vae.runs.run import pretrained

# The client uploads files in a way that httpx deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")

NAME = "someone/a-model"
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve(Hub()) as server:
        yield server


@pytest.fixture
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Import the client anew as a user whose hub is that server, with an empty cache and no token.

    The fixture's value does so with another hub: the client reads its environment when it is imported.
    """

    def connect(address: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setenv("HF_ENDPOINT", address)

    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    connect(hub.address)
    yield connect
    hub_files.hub_client().close_session()


def opened(name: str) -> str:
    """Open a model, and return the outcome."""
    try:
        run = load_run(name)
    except UserError as error:
        return f"refused {error}"
    return f"opened {run.name} {run.config.preset} {run.step}"


def export(out: Path) -> int:
    words = ["export", "pretrained:mlp", "--format", "safetensors", "--out", str(out), "--push", NAME]
    return main(words)


def test_a_pushed_model_opens_elsewhere(
    hub: Hub,
    client: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The whole directory is uploaded; only the two files of the model are downloaded."""
    out = tmp_path / "exported"
    with monkeypatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        assert export(out) == 0
    assert capsys.readouterr().out.splitlines() == [str(out), f"{hub.address}/{NAME}"]
    pushed = hub.repositories[NAME]
    assert pushed == {path.name: path.read_bytes() for path in out.iterdir()}
    assert f'load_run("hf://{NAME}")' in pushed["README.md"].decode()
    verify_export(out)

    pushed["setup.py"] = b"raise SystemExit('executed')"
    hub.requests.clear()
    model = load_run("pretrained:mlp")
    for name in (f"hf://{NAME}", f"hf://{NAME}@v1", f"hf://{NAME}@{COMMIT}"):
        assert opened(name) == f"opened {name} {model.config.preset} {model.step}"
    assert hub.fetched() == {"model.safetensors", "model.json"}

    hub_files.hub_client().close_session()
    client(UNREACHABLE)  # the model opens from the cache
    assert main(["sample", f"hf://{NAME}", "--out", str(tmp_path / "samples.png")]) == 0
    assert (tmp_path / "samples.png").stat().st_size > 0


def test_a_model_that_cannot_be_opened_is_reported_in_one_line(hub: Hub, client: Callable[[str], None]) -> None:
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
    for name, message in expected.items():
        line = opened(name)
        assert line.startswith("refused ")
        assert message in line
        assert "\n" not in line
    hub_files.hub_client().close_session()
    client(UNREACHABLE)
    assert "refused hf://someone/intact: the hub cannot be reached (ConnectError" in opened("hf://someone/intact")


@pytest.mark.usefixtures("client")
def test_a_push_without_a_token_is_refused_before_the_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path / "exported") == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "--push requires a token of the hub" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "exported").exists()


@pytest.mark.usefixtures("client")
def test_a_push_that_the_hub_refuses_leaves_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    assert export(out) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{out} was written, but not pushed to {NAME}: " in error
    assert "401" in error
    verify_export(out)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs huggingface_hub: pip install 'flax_vae\[hub\]'"):
        load_run("hf://someone/whole")


def test_a_path_with_a_collapsed_slash_is_parsed(tmp_path: Path) -> None:
    assert hub_files.parse(Path("hf://someone/a-model@v1")) == ("someone/a-model", "v1")
    assert hub_files.parse(tmp_path) is None
