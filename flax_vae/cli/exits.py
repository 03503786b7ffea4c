"""Run a command and turn its errors into messages and exit codes."""

import re
from collections.abc import Callable

import jax

from flax_vae.fitting.loop import Interrupted
from flax_vae.system.console import escape_unencodable_output, log, print_result
from flax_vae.system.errors import ProcessLost, UserError
from flax_vae.system.machine import describe_missing_device
from flax_vae.system.memory import is_out_of_memory
from flax_vae.system.processes import detect_lost_processes
from flax_vae.system.signals import exit_at_once, last_interrupt, raise_interrupts, signal_of

# Arguments whose flags have another name: a command takes the name of a model's maker, and one class for all images.
_FLAGS = {"model": "preset", "labels": "label"}


def run_command(parse: Callable[[], Callable[[], None]], doc: str | None = None) -> int:
    """Parse a command line, run the command and return the exit code: 2 for bad input, 128 + n after signal n.

    Args:
        parse: reads the arguments and returns the command; exits after printing the help or an error of syntax.
        doc: the docstring of the command's module, whose examples are printed below the help.
    """
    try:
        raise_interrupts()
        escape_unencodable_output()
        _call(parse)
    except SystemExit as done:
        if done.code == 0 and doc:
            print_result("\nexamples:" + doc.partition("\nexamples:")[2])
        raise
    except UserError as error:
        log(f"error: {with_flags(str(error))}")
        return 2
    except ProcessLost as error:
        log(f"error: {error}")
        exit_at_once(1)  # JAX would wait for the other processes, and then abort
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0].removesuffix(".")
        log(f"error: Out of memory: {reason}. To train with less, add --accumulate or --remat, or lower --batch-size.")
        exit_at_once(2)  # JAX would wait for the other processes, and then abort
    except Interrupted as interrupted:
        log(str(interrupted))
        jax.distributed.shutdown()  # waits until the other processes have saved as well
        return 128 + interrupted.signum
    except KeyboardInterrupt as interrupt:
        log("Interrupted.")
        return 128 + signal_of(interrupt)
    except (AssertionError, RuntimeError) as error:
        if (line := describe_missing_device(error)) is None:
            raise
        log(f"error: {line}")
        return 2
    except OSError as error:
        log(f"error: {f'{error.filename}: ' * bool(error.filename)}{error.strerror or error}.")
        return 2
    return 0


def _call(parse: Callable[[], Callable[[], None]]) -> None:
    try:
        with detect_lost_processes("Start all of them again."):
            parse()()
    except Exception as error:
        interrupt = last_interrupt()
        if interrupt and not isinstance(error, Interrupted):  # an import in progress has replaced the interrupt
            raise interrupt from None
        raise


def with_flags(message: str) -> str:
    """Replace each argument name in backquotes by its flag: `batch_size` becomes --batch-size."""
    return re.sub("`([a-z_]+)`", lambda name: "--" + _FLAGS.get(name[1], name[1].replace("_", "-")), message)
