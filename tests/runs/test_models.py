"""Commands on a run, as messages suggest them."""

import shlex
import signal
from pathlib import Path

import pytest

from flax_vae import Config, UserError
from flax_vae.fitting.loop import Interrupted
from flax_vae.runs.config_file import write_config
from flax_vae.runs.directory import RunDirectory, free_directory
from flax_vae.runs.models import command, resume_command

OWN = Config(prior="own:Prior(scale=1.0)", objective="own:loss")
PRIOR = ["--prior", "own:Prior(scale=1.0)"]


def test_suggested_commands_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They name the parts of the user's own that the command needs, in a form that a shell reads as one word."""
    monkeypatch.chdir(tmp_path)
    for name in ("my run", "all runs/seed-0"):
        Path(name).mkdir(parents=True)
        write_config(Path(name, "config.json"), OWN, (28, 28, 1))
    run, runs = RunDirectory(Path("my run")), RunDirectory(Path("all runs"))
    with pytest.raises(UserError) as unfinished:
        run.restore_best({})
    with pytest.raises(UserError) as used:
        free_directory(OWN, "my run")
    interrupted = Interrupted(signal.SIGINT, run)
    for message in (unfinished.value, used.value, interrupted, run.advice, runs.advice):
        words = shlex.split(str(message).partition("flax-vae ")[2].removesuffix("."))
        where = "all runs" if message == runs.advice else "my run"
        assert words == ["train", "--resume", where, *PRIOR, "--objective", "own:loss"]
    assert shlex.split(command("flax-vae sample", "my run", OWN)) == ["flax-vae", "sample", "my run", *PRIOR]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("elbo", "flax-vae train --resume run"),
        ("iwae", "flax-vae train --resume run"),
        ("mine:f(2)", "flax-vae train --resume run --objective 'mine:f(2)'"),
        (":loss", "flax_vae.{}('run', objective=...)"),
    ],
)
@pytest.mark.parametrize("members", [False, True])
def test_the_command_that_resumes_names_parts_of_your_own(objective: str, expected: str, members: bool) -> None:
    """A part that no text imports is passed in Python, to the function that resumes an ensemble if it is one."""
    shown = resume_command("run", Config(objective=objective), members)
    assert shown == expected.format("resume_many" if members else "resume")


def test_a_directory_without_a_run_is_not_to_be_resumed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty: choose another directory\.$"):
        free_directory(OWN, tmp_path)
