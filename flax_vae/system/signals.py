"""How SIGINT (Ctrl-C) and SIGTERM end a program, from its first line to its last.

A program that receives a signal ends with exit code 128 + the signal's number and one line on stderr, without a
traceback. What answers the signal depends on what there is to save:

Importing
    Nothing is to be saved, so `run_program` lets the handler exit at once. An exception would not do: imports catch
    and replace exceptions, and some are raised where Python can only print them.
Commands
    `raise_interrupts` lets the handler raise KeyboardInterrupt, or its subclass Terminated, so that temporary files are
    removed and partial results are kept; `cli/exits.py` turns it into the exit code. An exception can still be lost in
    two ways. An import in the command may replace it: the command line then asks `last_interrupt`. Or Python drops it,
    as it drops all exceptions in callbacks of the garbage collector, which JAX has: `sys.unraisablehook` then sends the
    signal again.
Compiling, computing, waiting for other processes
    Python runs handlers in the main thread, between two bytecodes, so not while a library computes or waits there. But
    the C part of Python's signal handling writes every signal to a socket at once. A thread reads it and exits if the
    handler has not acknowledged the signal within two seconds. Training compiles its steps in this phase, before its
    first step: there is nothing to save yet, and compiling may take minutes.
Training steps
    `deferred_signals` only records a signal. The training loop looks after each dispatch, of about half a second, saves
    and raises `Interrupted`. Several processes agree on the signal, so all stop after the same step. The thread does
    not watch here, since one step may take longer than two seconds. A second signal is answered as in a command.
The last moments
    After the command the handler exits at once, as during imports. Once Python's exit functions have run, signals are
    ignored: Python would restore their default actions, which end the process with another exit code. After an
    interrupt all of this is skipped, because XLA may still be compiling in threads that crash when Python shuts down.

A signal that is ignored at the start stays ignored, as SIGINT is in background jobs of scripts. Programs import this
module before JAX, which takes a second to import, so it imports next to nothing itself.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Never

from flax_vae.system.console import log

if TYPE_CHECKING:
    from socket import socket

Handler = Callable[[int, FrameType | None], object]
_ACKNOWLEDGED = b"\0"
_PATIENCE = 2.0  # seconds
_interrupts: list[KeyboardInterrupt] = []  # raised since the command started


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


def run_program(command: Callable[[], int]) -> int:
    """Import and run a command, and return its exit code.

    Args:
        command: a function that imports the command and runs it.
    """
    atexit.register(_handle, signal.SIG_IGN)  # registered first, so called last
    sys.unraisablehook = partial(_send_again, sys.unraisablehook)
    try:
        _handle(_exit)
        code = command()
    finally:
        _handle(_exit)
    if code > 128:
        exit_at_once(code)
    return code


def raise_interrupts() -> None:
    """Raise KeyboardInterrupt or Terminated in the main thread from now on; exit if it is busy for two seconds."""
    _watchdog()
    _interrupts.clear()
    _handle(_raise)


def last_interrupt() -> KeyboardInterrupt | None:
    """Return the last exception that a signal has raised in this command."""
    return _interrupts[-1] if _interrupts else None


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """Return the number of the signal that raised an exception."""
    return signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Record a first signal within the block instead of raising an exception; a second one is not deferred.

    Yields:
        A list that receives the number of the signal.
    """
    from threading import current_thread, main_thread

    received: list[int] = []
    if current_thread() is not main_thread():  # handlers can only be set there
        yield received
        return

    def record(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        log("Stopping after this dispatch, then saving; a second signal ends the program at once.")
        restore()

    def restore() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(watchdog)

    previous = _handlers()
    watchdog = signal.set_wakeup_fd(-1)
    try:
        _handle(record)
        yield received
    finally:
        restore()


def exit_at_once(code: int) -> Never:
    """Exit without the clean-up of Python and JAX."""
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def _handlers() -> dict[int, Any]:
    """The handlers of SIGINT and SIGTERM, without a signal that is ignored."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    return {signum: handler for signum, handler in handlers.items() if handler is not signal.SIG_IGN}


def _handle(handler: Handler | signal.Handlers) -> None:
    for signum in _handlers():
        signal.signal(signum, handler)


def _exit(signum: int, frame: FrameType | None) -> Never:
    os.write(2, b"Interrupted.\n")
    os._exit(128 + signum)


def _raise(signum: int, frame: FrameType | None) -> Never:
    _watchdog().send(_ACKNOWLEDGED)
    _interrupts.append(Terminated() if signum == signal.SIGTERM else KeyboardInterrupt())
    raise _interrupts[-1]


def _send_again(show: Callable[["sys.UnraisableHookArgs"], object], dropped: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception Python drops, and show other exceptions."""
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        from threading import Timer

        Timer(0.01, os.kill, [os.getpid(), signal_of(dropped.exc_value)]).start()
    else:
        show(dropped)


@cache
def _watchdog() -> "socket":
    """The socket that Python writes signals to, and handlers their acknowledgements, read by a thread."""
    from socket import socketpair
    from threading import Thread

    received, sent = socketpair()
    sent.setblocking(False)
    signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
    Thread(target=_exit_unacknowledged, args=[received], daemon=True).start()
    return sent


def _exit_unacknowledged(received: "socket") -> Never:
    from select import select

    while True:
        byte = received.recv(1)
        if byte != _ACKNOWLEDGED and not select([received], [], [], _PATIENCE)[0]:
            _exit(byte[0], None)
