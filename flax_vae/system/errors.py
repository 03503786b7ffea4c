"""The errors that the command line says in one line, without a traceback."""


class UserError(Exception):
    """Bad input, in one line that says what is wrong, where, and how to mend it.

    The command line prints the line and exits with 2; a script may catch it like any other exception. Everything else
    that is raised is a fault of the program and keeps its traceback, but for `Lost`, and JAX's error of full memory.
    """


class Lost(Exception):
    """Another process has ended, and this one can only end as well."""
