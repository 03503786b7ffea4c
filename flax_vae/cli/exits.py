"""Run a command and turn its errors into messages and exit codes."""

import re
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import tyro

from flax_vae.fitting.loop import Interrupted
from flax_vae.system.console import escape_unencodable_output, log, print_result
from flax_vae.system.errors import ProcessLost, UserError
from flax_vae.system.memory import is_out_of_memory
from flax_vae.system.processes import detect_lost_processes
from flax_vae.system.settings import by_default
from flax_vae.system.signals import exit_at_once, last_interrupt, raise_interrupts, signal_of

# Arguments whose flags have another name: a command takes the name of a model's maker, and one class for all images.
_FLAGS = {"model": "preset", "labels": "label"}


def run_command(parse: Callable[[], Callable[[], None]], command: type | None = None) -> int:
    """Parse a command line, run the command and return the exit code: 2 for bad input, 128 + n after signal n.

    Args:
        parse: reads the arguments and returns the command; exits after printing the help or an error of syntax.
        command: the class of the command. Errors name its flags, and below its help are the examples in the docstring
            of its module.
    """
    try:
        raise_interrupts()
        escape_unencodable_output()
        _call(parse)
    except SystemExit as done:
        if done.code == 0 and command:
            print_result("\nexamples:" + str(sys.modules[command.__module__].__doc__).partition("\nexamples:")[2])
        raise
    except UserError as error:
        log(f"error: {_with_flags(str(error), command)}")
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
    except OSError as error:
        log(f"error: {f'{error.filename}: ' * bool(error.filename)}{error.strerror or error}.")
        return 2
    return 0


@by_default
def _call(parse: Callable[[], Callable[[], None]]) -> None:
    try:
        with detect_lost_processes("Start all of them again."):
            parse()()
    except Exception as error:
        interrupt = last_interrupt()
        if interrupt and not isinstance(error, Interrupted):  # an import in progress has replaced the interrupt
            raise interrupt from None
        raise


def _flags_of(command: Any) -> set[str]:
    """Return the names of a command's arguments that are flags; those of its groups are flags as well."""
    names: set[str] = set()
    for field in fields(command):
        kind = getattr(field.type, "__origin__", field.type)
        if is_dataclass(kind):
            names |= _flags_of(kind)
        elif tyro.conf.Positional not in getattr(field.type, "__metadata__", ()):
            names.add(field.name)
    return names


def _with_flags(message: str, command: type | None) -> str:
    """Replace each argument in backquotes that is a flag of the command: `batch_size` becomes --batch-size."""
    flags = _flags_of(command) if command else ()

    def flag(name: re.Match[str]) -> str:
        argument = _FLAGS.get(name[1], name[1])
        return "--" + argument.replace("_", "-") if argument in flags else name[0]

    return re.sub("`([a-z_]+)`", flag, message)
