"""What the program tells the user on stderr, apart from its output: lines, and progress."""

import functools
import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

Item = TypeVar("Item")
_NARROWEST = 80  # columns of a table, as of one that goes to a file


def printable(text: str) -> str:
    """The text in one line, with escapes for what would move a terminal's cursor or change its colours."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log(line: str) -> None:
    """Tell the user one thing, in one line: names of files and messages of others may hold anything."""
    print(printable(line), file=sys.stderr, flush=True)


def escape_unencodable_output() -> None:
    """Let stdout have escapes for characters that its encoding lacks, as stderr has: a program calls this first."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@functools.cache
def log_once(line: str) -> None:
    """Tell the user one thing, once: the training and the test part often have the same to say."""
    log(line)


def print_result(line: object) -> None:
    """Print a result, on stdout."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _close_stdout()


def stdout_console() -> Any:
    """Rich's console for results; once its reader, such as `head`, has seen enough, the work goes on in silence."""
    from rich.console import Console

    class Patient(Console):
        def on_broken_pipe(self) -> None:
            _close_stdout()

    return Patient(markup=False)  # names may hold brackets


def print_table(table: Any) -> None:
    """Print one of Rich's tables: a narrow terminal breaks its lines, where Rich would leave out names and numbers."""
    console = stdout_console()
    console.width = max(console.width, _NARROWEST)
    console.print(table)


def _close_stdout() -> None:
    """Send what is printed from now on nowhere; otherwise Python would stumble over it once more at the very end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(
    items: Iterable[Item], total: int | None, what: str, size: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """Pass the items on, with a progress bar once they have taken more than two seconds; `size` is that of an item."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True, force_jupyter=False))
    task = bar.add_task(what, total=total)
    started, done = time.monotonic(), 0
    try:
        for item in items:
            yield item
            done += size(item)
            if bar.live.is_started:
                bar.update(task, completed=done)
            elif time.monotonic() - started > 2:
                bar.start()
    finally:
        if bar.live.is_started:
            bar.stop()


def spinner(what: str) -> AbstractContextManager[object]:
    """A sign of life while something takes its time."""
    from rich.console import Console

    return Console(stderr=True, force_jupyter=False).status(what)
