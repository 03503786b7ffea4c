"""The way a command refuses bad input: exit code 2, one line that says what is wrong, and no file written."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import pytest


def assert_refused(
    command: Callable[[Sequence[str]], int], words: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run a command with bad input in the current directory, and check that it changes nothing there."""
    before = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.config, "update", lambda *_: None)  # JAX has already fixed its devices
        assert command(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 1000  # however long the input is
    assert message in err
    assert out == ""
    assert sorted(Path.cwd().rglob("*")) == before
