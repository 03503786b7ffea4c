"""How a command refuses bad input: exit code 2, one line that says what is wrong, and nothing written."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import pytest


def assert_refused(
    command: Callable[[Sequence[str]], int], words: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run a command in the current directory, which is to stay as it is."""
    before = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.config, "update", lambda *_: None)  # devices are fixed once JAX has run
        assert command(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 1000  # whatever the length of what was given
    assert message in err
    assert out == ""
    assert sorted(Path.cwd().rglob("*")) == before
