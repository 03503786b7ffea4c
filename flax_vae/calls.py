"""Parts as users write them: a name, or a call whose arguments are literals and other parts.

    elbo    elbo(beta=4.0)    elbo(beta=warmup(epochs=2))    my_module:my_objective(weight=2.0)

Text is read by `ast`, once, into a `Call`; nothing is evaluated. Only `import_maker` imports.
"""

import ast
import contextlib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any

from flax_vae.system.errors import UserError

OF_LINEN = ("parent", "name")  # fields and arguments that Linen adds to every module


@dataclass(frozen=True, repr=False)
class Call:
    """A part as it is written: a name, with positional and keyword arguments, which may be calls themselves."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def is_imported(self) -> bool:
        """True for `my_module:my_part` and for `:MyPart` (see `written`), False for the name of a registered part."""
        return ":" in self.name

    @property
    def is_importable(self) -> bool:
        """True for `my_module:my_part` only."""
        return self.is_imported and not self.name.startswith(":")

    def __str__(self) -> str:
        """Return `name`, or `name(1, key=2)`."""
        return repr(self) if self.args or self.kwargs else self.name

    def __repr__(self) -> str:
        """Return `name()` or `name(1, key=2)`, which also reads back as an argument."""
        return f"{self.name}({', '.join([*map(repr, self.args), *(f'{key}={value!r}' for key, value in self.kwargs)])})"


@functools.cache
def parse(text: str) -> Call:
    """Read `name`, `name(arguments)` or `module:name(arguments)`.

    Raises:
        UserError: another form, or an argument that is neither a literal nor a call of this form.
    """
    match = re.fullmatch(r"\s*([\w.:]+)\s*(\(.*\))?\s*", text, re.DOTALL)
    try:
        call = _value(ast.parse(f"f{match[2] or '()'}" if match else "", mode="eval").body)
        if not match or not isinstance(call, Call):
            raise SyntaxError
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise UserError(
            f"{text!r:.200} is not a name or a call with literal arguments, such as renyi or renyi(alpha=0.3), nor one "
            "with parts as arguments, such as elbo(beta=warmup(epochs=2))."
        ) from None
    return Call(match[1], call.args, call.kwargs)


def _value(node: ast.expr) -> Any:
    """Return the literal or the `Call` that a syntax tree stands for; raise SyntaxError or ValueError for others."""
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    names = [word.arg for word in node.keywords]
    if not isinstance(node.func, ast.Name) or None in names or len(set(names)) < len(names):  # None stands for **
        raise SyntaxError
    kwargs = tuple((str(word.arg), _value(word.value)) for word in node.keywords)
    return Call(node.func.id, tuple(map(_value, node.args)), kwargs)


def import_maker(call: Call) -> Callable[..., Any]:
    """Import the function or class `my_module:my_part` that a call names, from the current directory first.

    Raises:
        UserError: no such module or attribute; the message completes "`prior` my_module:my_part: ...".
    """
    module_name, _, attribute = call.name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not (module_name + ".").startswith(error.name + "."):
            raise  # the user's module exists; the traceback names the missing import
        raise UserError(f"no module {module_name} in {folder} or among the installed packages.") from None
    except SystemExit:
        raise UserError(
            f"{module_name} calls sys.exit when it is imported; move that call below if __name__ == '__main__'."
        ) from None
    maker: Any = getattr(module, attribute, None)
    if not callable(maker):
        file = getattr(module, "__file__", module_name)  # a built-in module has no file
        raise UserError(f"{file} has no function or class {attribute}.")
    return maker


def bind_arguments(what: str, function: Any, arguments: str, name: str, further: Call) -> dict[str, Any]:
    """Return the arguments of a call of a function, by their names.

    Args:
        what: the function as the user gave it, for the message: "`objective` my_module:f".
        function: the function, or an object that is called like one.
        arguments: the names of its first arguments: "model, x, key, step".
        name: its name in a call.
        further: the arguments after them, as the user wrote them.

    Raises:
        UserError: the function cannot be called with these arguments.
    """
    try:
        bound = inspect.signature(function).bind(*arguments.split(", "), *further.args, **dict(further.kwargs))
    except (TypeError, ValueError) as error:  # a ValueError if a builtin has no signature
        raise UserError(f"{what}: it is called as {name}({arguments}), but {error}.") from None
    return dict(bound.arguments)


def written(part: Any) -> str:
    """Return the text that imports a part from the user's module, such as `my_module:MyPart(weight=2.0)`.

    Args:
        part: a function, a class, a frozen dataclass or a Linen module.

    Returns:
        The text, or `:MyPart` if there is none: the part is not at the top level of a module that can be imported, or
        has a field that is not a literal.
    """
    is_value = is_dataclass(part) and not isinstance(part, type)
    maker = type(part) if is_value else part
    name = getattr(maker, "__name__", type(part).__name__)  # an object of another kind has none
    values = [(field, getattr(part, field.name)) for field in fields(part) if field.init] if is_value else []
    arguments = [(f.name, value) for f, value in values if f.name not in OF_LINEN and value is not f.default]
    call = Call(f"{maker.__module__}:{name}", (), tuple(arguments))
    module = sys.modules.get(str(maker.__module__))
    with contextlib.suppress(UserError):  # from a field that is not a literal
        is_importable = getattr(module, name, None) is maker and maker.__module__ != "__main__"
        if is_importable and parse(str(call)) == call:
            return str(call)
    return ":" + re.sub(r"\W", "", name)


def describe(part: Any) -> str:
    """Return a part as text, without memory addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(part))
