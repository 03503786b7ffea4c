"""The terminal: results on stdout; messages and progress bars on stderr, apart from the results."""

import functools
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

_NARROWEST = 80  # columns of a table; also the width of a table that is written to a file
_UNNOTICED = 2.0  # seconds before a progress bar appears


def printable(text: str) -> str:
    """Escape control characters, so that a text stays on one line and cannot move the cursor or change colours."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log(line: str) -> None:
    """Print one line on stderr, escaped: file names and messages of other programs may contain anything."""
    print(printable(line), file=sys.stderr, flush=True)


log_once = functools.cache(log)  # the training and the test split often cause the same message


def escape_unencodable_output() -> None:
    """Make stdout escape characters that its encoding lacks, as stderr does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_result(line: object) -> None:
    """Print a line on stdout."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _discard_output()


def print_table(table: Any) -> None:
    """Print a Rich table, 80 columns wide or more: a narrow terminal wraps its lines, but no name or number is cut."""
    console = stdout_console()
    console.width = table_width()
    console.print(table)


def table_width() -> int:
    """Return the width of tables in columns: that of the terminal, but at least 80."""
    return max(stdout_console().width, _NARROWEST)


def stdout_console() -> Any:
    """Make a Rich console for results; if their reader closes the pipe, as `head` does, the program continues."""
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            _discard_output()

    return PipeConsole(markup=False)  # names may contain brackets


def _discard_output() -> None:
    """Redirect stdout to /dev/null; Python would otherwise raise again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(
    items: Iterable[Any], total: int | None, description: str, size: Callable[[Any], int] = lambda _: 1
) -> Iterator[Any]:
    """Yield the items, with a progress bar on stderr once two seconds have passed.

    Args:
        items: the items to pass on.
        total: the sum of all sizes; None if unknown.
        description: the text before the bar.
        size: how far an item advances the bar.
    """
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True, force_jupyter=False))
    task = bar.add_task(description, total=total)
    start, done = time.monotonic(), 0
    try:
        for item in items:
            yield item
            done += size(item)
            if bar.live.is_started:
                bar.update(task, completed=done)
            elif time.monotonic() - start > _UNNOTICED:
                bar.start()
    finally:
        if bar.live.is_started:
            bar.stop()


def spinner(description: str) -> AbstractContextManager[object]:
    """Show a spinner on stderr during a slow operation."""
    from rich.console import Console

    return Console(stderr=True, force_jupyter=False).status(description)
