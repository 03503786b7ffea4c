"""What a program does first: from then on a signal ends it by its exit code, also while packages are imported."""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Never

Handler = Callable[[int, FrameType | None], object]


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def start(command: Callable[[], int]) -> int:
    """Import and run a command; its exit code.

    Until the command has set what signals do, and once it has ended, there is nothing to save or to clean up: SIGINT
    and SIGTERM end the process at once. In the midst of an import an exception could be lost, or shown.

    Args:
        command: what imports and runs it. This module imports next to nothing.
    """
    # Registered first, so called last: all is done by then, and Python would give signals back what they do by default.
    atexit.register(on_signals, signal.SIG_IGN)
    sys.unraisablehook = partial(_interrupt_again, sys.unraisablehook)
    try:
        on_signals(end)
        code = command()
    finally:
        on_signals(end)
    if code > 128:
        leave(code)  # XLA may be compiling still, in threads that crash when Python goes
    return code


def leave(code: int) -> Never:
    """End at once, without what Python and JAX do, or wait for, at the end of a program."""
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """The signal that was it."""
    return signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT


def on_signals(handler: Handler | signal.Handlers) -> None:
    """Set what SIGINT and SIGTERM do, unless they are ignored, as SIGINT is by background jobs of scripts."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, handler)


def end(signum: int, frame: FrameType | None) -> Never:
    """End at once, by a signal."""
    os.write(2, b"Interrupted.\n")
    os._exit(128 + signum)


def _interrupt_again(show: Callable[["sys.UnraisableHookArgs"], object], lost: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception was lost: raised in what JAX does when garbage is collected, above all."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        from threading import Timer

        Timer(0.01, os.kill, [os.getpid(), signal_of(lost.exc_value)]).start()
    else:
        show(lost)
