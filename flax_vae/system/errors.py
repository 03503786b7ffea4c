"""Errors that the command line reports in one line, without a traceback."""


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and how to fix it.

    The command line prints the line and exits with code 2; a script may catch it like any other exception. Any other
    exception is a bug and keeps its traceback, except `ProcessLost` and JAX's out-of-memory error.
    """


class ProcessLost(Exception):
    """Another process has died, so this one has to stop as well."""
