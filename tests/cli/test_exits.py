"""Exit codes and error messages of the command line."""

import pytest

from flax_vae.cli.exits import run_command
from flax_vae.system.errors import UserError


def test_an_error_names_flags_where_python_names_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError("`learning_rate` must be above 0, not -1: `A b` and `run.json` are no names of arguments.")

    assert run_command(lambda: fail) == 2
    message = "error: --learning-rate must be above 0, not -1: `A b` and `run.json` are no names of arguments.\n"
    assert capsys.readouterr().err == message
