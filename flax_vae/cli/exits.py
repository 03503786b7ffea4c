"""Exit codes."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Never

import jax

from flax_vae.cli.start import Terminated, leave, on_signal, on_signals, signal_of
from flax_vae.cluster import Lost
from flax_vae.console import degrade_output, say, tell
from flax_vae.errors import UserError
from flax_vae.runs.loop import Interrupted


def run_command(parse: Callable[[], Callable[[], None]], examples: str = "") -> int:
    """Parse a command line and run the command; its exit code: 2 for bad input, 128 + n after signal n.

    Args:
        parse: reads the arguments; it ends the program after showing the help, or what is wrong with them.
        examples: shown below the help.
    """
    try:
        on_signal(signal.SIGINT, signal.default_int_handler)
        on_signal(signal.SIGTERM, _terminate)
        degrade_output()
        parse()()
    except SystemExit as done:
        if done.code == 0 and examples:
            tell(examples)
        raise
    except UserError as error:
        say(f"error: {error}")
        return 2
    except Lost as lost:
        say(f"error: {lost}")
        leave(1)  # JAX would wait for the others, and then abort
    except Interrupted as interrupted:
        say(str(interrupted))
        jax.distributed.shutdown()  # where there are other processes, once they have saved as well
        return 128 + interrupted.signum
    except KeyboardInterrupt as interrupted:
        say("Interrupted.")
        return 128 + signal_of(interrupted)
    except OSError as error:
        say(f"error: {f'{error.filename}: ' * bool(error.filename)}{error.strerror or error}.")
        return 2
    return 0


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the program while it waits in a library, where Python's handlers do not run."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        on_signals(signal.SIG_DFL)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(signum: int, frame: FrameType | None) -> Never:
    raise Terminated


def refuse_unwritable(path: Path, suffix: str = ".png", flag: str = "--out") -> None:
    """Raise UserError where a file cannot be written, before the work is done."""
    if suffix and path.suffix.lower() != suffix:
        raise UserError(f"{flag} {path}: name a file that ends in {suffix}.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.absolute().parent} is not a directory to write {path.name} to.")
