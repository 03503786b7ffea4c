"""Output on poor terminals: ASCII only, twenty columns, and names with control characters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import assert_refused

from flax_vae import Config
from flax_vae.cli.main import main
from flax_vae.runs.config_file import write_config


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make three runs, with only what `compare` reads; their names are long, or have brackets or control characters."""
    monkeypatch.chdir(tmp_path)
    names = ["first-long-name", "[red]second", "third\x1b[31m"]
    for number, name in enumerate(names):
        Path(name).mkdir()
        write_config(Path(name, "config.json"), Config(), (28, 28, 1))
        record = {"epoch": 1, "step": 5, "seconds": 1.0, "test_loss": 234.5 + number, "test_rate": 12.25}
        Path(name, "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return names


def test_narrow_tables_keep_names_and_numbers(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert main(["compare", *runs]) == 0
    out = capsys.readouterr().out
    for word in ("first-long-name", "[red]second", "third\\x1b[31m", "234.50", "235.50", "236.50", "12.25"):
        assert word in out


def test_an_ascii_terminal_gets_escapes(runs: list[str]) -> None:
    program = "import sys; from flax_vae.cli.main import main; print(main(sys.argv[1:])); main(['train', '--help'])"
    words = [sys.executable, "-c", program, "compare", *runs, "--out", "vergleich-\u00e4.png"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, env=ascii_only, capture_output=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    for shown in ("vergleich-\\xe4.png", "z = f(\\u03b5)"):
        assert shown.encode() in done.stdout
    assert "\n0\n" in done.stdout.decode()  # the exit code of `compare`


def test_control_characters_do_not_reach_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sample", "one\n\x1b[31mtwo\udce9"]
    assert_refused(main, words, "error: one\\n\\x1b[31mtwo\\udce9 is not a run directory", capsys)
