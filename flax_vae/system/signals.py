"""Handling of SIGINT (Ctrl-C) and SIGTERM, from the first line of a program to its last.

A program that receives a signal ends with exit code 128 + the signal's number and one line on stderr, without a
traceback. The handler depends on the phase, and so on what has to be saved:

Importing
    There is nothing to save, so the handler that `run_program` installs exits at once. It does not raise an exception,
    because imports may catch or replace it, and Python may drop it and only print a traceback.
Commands
    `raise_interrupts` installs a handler that raises KeyboardInterrupt(signum), so that temporary files are removed
    and partial results are stored. `cli/exits.py` turns the exception into the exit code. The exception can still get
    lost in two ways. An import in progress may replace it by another one; the command line then looks it up with
    `last_interrupt`. Or Python drops it, as it drops all exceptions in callbacks of the garbage collector, one of which
    is JAX's; `sys.unraisablehook` then sends the signal again.
Compiling, computing, waiting for other processes
    Python runs handlers in the main thread, between two bytecodes, so not while a library computes or waits there.
    However, Python writes each signal to a socket as soon as it arrives. A thread reads the socket and exits if the
    handler does not acknowledge the signal within two seconds. Training compiles its steps in this phase: compiling
    may take minutes, and before the first step there is nothing to save.
Training steps
    The handler of `deferred_signals` only records the signal. The training loop checks for it after each dispatch,
    about every half second, saves the state and raises `Interrupted`. Several processes agree on the signal, so that
    all of them stop after the same step. The thread is off meanwhile, since a step may take longer than two seconds.
    A second signal is handled as in a command.
The last moments
    After the command the handler exits at once, as during imports. When Python's exit functions have run, signals are
    ignored, because Python would restore their default actions, which end the process with another exit code. After
    an interrupt the program skips all clean-up, because XLA may still be compiling, in threads that crash when Python
    shuts down.

A signal that is ignored when the program starts stays ignored, as SIGINT is in background jobs of scripts. Programs
import this module before JAX, whose import takes a second; so it imports next to nothing itself.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import Any, Never

from flax_vae.system.console import log

_ACKNOWLEDGED = b"\0"
_PATIENCE = 2.0  # seconds
_interrupts: list[KeyboardInterrupt] = []  # raised since the command started


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
    """Let signals raise KeyboardInterrupt in the main thread, or exit if it is busy for two seconds."""
    _watchdog()
    _interrupts.clear()
    _handle(_raise)


def last_interrupt() -> KeyboardInterrupt | None:
    """Return the last exception that a signal raised in this command, if any."""
    return _interrupts[-1] if _interrupts else None


def signal_of(interrupt: KeyboardInterrupt) -> int:
    """Return the number of the signal that raised an exception."""
    return interrupt.args[0] if interrupt in _interrupts else signal.SIGINT


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Record the first signal within the block instead of raising an exception.

    Yields:
        A list that receives the number of the signal.
    """
    from threading import current_thread, main_thread

    received: list[int] = []
    if current_thread() is not main_thread():  # handlers can only be set there
        yield received
        return

    def record(signum: int, frame: object) -> None:
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
    """Return the handlers of SIGINT and SIGTERM, except that of a signal that is ignored."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    return {signum: handler for signum, handler in handlers.items() if handler is not signal.SIG_IGN}


def _handle(handler: Callable[[int, object], object] | signal.Handlers) -> None:
    for signum in _handlers():
        signal.signal(signum, handler)


def _exit(signum: int, frame: object) -> Never:
    os.write(2, b"Interrupted.\n")
    os._exit(128 + signum)


def _raise(signum: int, frame: object) -> Never:
    _watchdog().send(_ACKNOWLEDGED)
    _interrupts.append(KeyboardInterrupt(signum))
    raise _interrupts[-1]


def _send_again(show: Callable[["sys.UnraisableHookArgs"], object], dropped: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception Python drops, and show other exceptions."""
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        from threading import Timer

        Timer(0.01, os.kill, [os.getpid(), signal_of(dropped.exc_value)]).start()
    else:
        show(dropped)


@cache
def _watchdog() -> Any:
    """Start the thread that exits if a signal is not acknowledged; return the socket for acknowledgements."""
    from socket import socketpair
    from threading import Thread

    received, sent = socketpair()
    sent.setblocking(False)
    signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
    Thread(target=_exit_unacknowledged, args=[received], daemon=True).start()
    return sent


def _exit_unacknowledged(received: Any) -> Never:
    from select import select

    while True:
        byte = received.recv(1)
        if byte != _ACKNOWLEDGED and not select([received], [], [], _PATIENCE)[0]:
            _exit(byte[0], None)
