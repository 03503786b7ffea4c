"""Exit codes."""

import re
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from select import select
from socket import socket, socketpair
from threading import Thread
from types import FrameType
from typing import Never

import jax

from flax_vae.fitting.loop import Interrupted
from flax_vae.system.console import escape_unencodable_output, log, print_result
from flax_vae.system.errors import ProcessLost, UserError
from flax_vae.system.memory import is_out_of_memory
from flax_vae.system.processes import detect_lost_processes
from flax_vae.system.signals import Terminated, end, leave, on_signals, signal_of

_ANSWER, _PATIENCE = b"\0", 2.0  # seconds
_raised: list[KeyboardInterrupt] = []  # what signals became


def run_command(parse: Callable[[], Callable[[], None]], examples: str = "") -> int:
    """Parse a command line and run the command; its exit code: 2 for bad input, 128 + n after signal n.

    Args:
        parse: reads the arguments; it ends the program after showing the help, or what is wrong with them.
        examples: shown below the help.
    """
    try:
        _watch()
        _raised.clear()
        on_signals(_interrupt)
        escape_unencodable_output()
        _call(parse)
    except SystemExit as done:
        if done.code == 0 and examples:
            print_result(examples)
        raise
    except UserError as error:
        log(f"error: {with_flags(str(error))}")
        return 2
    except ProcessLost as lost:
        log(f"error: {lost}")
        leave(1)  # JAX would wait for the others, and then abort
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).splitlines()[0].removesuffix(".")
        way_out = "Training needs less with --accumulate, --remat or a smaller --batch-size."
        log(f"error: Too little memory: {said}. {way_out}")
        leave(2)  # as above
    except Interrupted as interrupted:
        log(str(interrupted))
        jax.distributed.shutdown()  # where there are other processes, once they have saved as well
        return 128 + interrupted.signum
    except KeyboardInterrupt as interrupted:
        log("Interrupted.")
        return 128 + signal_of(interrupted)
    except OSError as error:
        log(f"error: {f'{error.filename}: ' * bool(error.filename)}{error.strerror or error}.")
        return 2
    return 0


def with_flags(message: str) -> str:
    """Replace each argument name in backquotes by its flag: `batch_size` becomes --batch-size."""
    return re.sub("`([a-z_]+)`", lambda name: "--" + name[1].replace("_", "-"), message)


def _call(parse: Callable[[], Callable[[], None]]) -> None:
    try:
        with detect_lost_processes("Start all of them again."):
            parse()()
    except Interrupted:
        raise
    except Exception:
        if _raised:  # in the midst of an import, which makes another error of it
            raise _raised[-1] from None
        raise


def _interrupt(signum: int, frame: FrameType | None) -> Never:
    _watch().send(_ANSWER)
    _raised.append(Terminated() if signum == signal.SIGTERM else KeyboardInterrupt())
    raise _raised[-1]


@cache
def _watch() -> socket:
    """Where Python writes signals as they come, and handlers their answers: a thread ends the program without one.

    Handlers run in the main thread, and not while a library computes there, or waits for another process.
    """
    signals, written = socketpair()
    written.setblocking(False)
    signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
    Thread(target=_end_unanswered, args=[signals], daemon=True).start()
    return written


def _end_unanswered(signals: socket) -> Never:
    """End the program by a signal that has no answer in time."""
    while True:
        read = signals.recv(1)
        if read != _ANSWER and not select([signals], [], [], _PATIENCE)[0]:
            end(read[0], None)


def refuse_unwritable(path: Path, suffix: str = ".png", flag: str = "--out") -> None:
    """Raise UserError where a file cannot be written, before the work is done."""
    if suffix and path.suffix.lower() != suffix:
        raise UserError(f"{flag} {path}: name a file that ends in {suffix}.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.absolute().parent} is not a directory to write {path.name} to.")
