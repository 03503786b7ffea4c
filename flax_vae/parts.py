"""Parts by name: text that users type becomes a value, in flags, in `config.json` and in Python alike.

    elbo    elbo(beta=4.0)    vamp(components=500)    my_module:my_objective(weight=2.0)

A part is a frozen dataclass, a Linen module or a model, made by a function or a class. Each kind of part has one
`Parts`, in which every part is registered once, beside its definition. Help, errors, tables and tests read it.

A call is read by `ast`, and its arguments are literals: nothing is evaluated.
"""

import ast
import contextlib
import difflib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from flax_vae.system.errors import UserError

Maker = TypeVar("Maker", bound=Callable[..., Any])
LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4e38  # JAX counts and computes in 32 bits
MOST_LAYERS = 100  # each layer is traced and compiled separately, which takes seconds
LayerCount = Annotated[int, "at most MOST_LAYERS"]  # the type of a hyperparameter that counts layers
OF_LINEN = ("parent", "name")  # fields and arguments that Linen adds to every module
_PLAIN = (bool, int, float, str, type(None))
_signature = functools.cache(inspect.signature)


@dataclass(frozen=True)
class Call:
    """A part as it is written: a name, with positional and keyword arguments."""

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
        words = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs)]
        return f"{self.name}({', '.join(words)})" if words else self.name


def read_call(text: str) -> Call:
    """Read `name`, `name(arguments)` or `module:name(arguments)`.

    Raises:
        UserError: another form, or an argument that is not a literal.
    """
    match = re.fullmatch(r"\s*([\w.:]+)\s*(\(.*\))?\s*", text, re.DOTALL)
    try:
        call = ast.parse(f"f{match[2] or '()'}" if match else "", mode="eval").body
        if not match or not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError
        if any(word.arg is None for word in call.keywords):  # **
            raise SyntaxError
        args = tuple(ast.literal_eval(word) for word in call.args)
        kwargs = tuple((str(word.arg), ast.literal_eval(word.value)) for word in call.keywords)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise UserError(
            f"{text!r:.200} is not a name or a call with literal arguments, such as renyi or renyi(alpha=0.3)."
        ) from None
    return Call(match[1], args, kwargs)


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
        if is_importable and read_call(str(call)) == call:
            return str(call)
    return ":" + re.sub(r"\W", "", name)


def describe(part: Any) -> str:
    """Return a part as text, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(part))


class Parts(Mapping[str, Callable[..., Any]]):
    """The registry of one kind of part: names that users type, and the function or class that makes each part."""

    def __init__(self, kind: str, supplied: tuple[str, ...] = ()) -> None:
        """Start with an empty registry.

        Args:
            kind: the argument of `Config` that names a part of this kind, such as "prior".
            supplied: arguments that the package supplies; each part gets those in its signature.
        """
        self.kind, self.supplied = kind, supplied
        self._makers: dict[str, Callable[..., Any]] = {}
        self.facts: dict[str, Mapping[str, Any]] = {}

    def register(self, name: str, **facts: Any) -> Callable[[Maker], Maker]:
        """Register the decorated maker under a name; `facts` are further attributes of the part."""

        def add(maker: Maker) -> Maker:
            self._makers[name], self.facts[name] = maker, facts
            return maker

        return add

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """Return the maker registered under a name."""
        return self._makers[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in alphabetical order."""
        return iter(sorted(self._makers))

    def __len__(self) -> int:
        """Return the number of parts."""
        return len(self._makers)

    def accepts(self, name: str, argument: str) -> bool:
        """Return True if the maker takes this argument, supplied by the package or typed by the user."""
        return argument in _signature(self[name]).parameters

    def needs(self, name: str) -> tuple[str, ...]:
        """Return the requirements that a part declares: `needs` in its class, or in its registration."""
        return self.facts[name].get("needs", getattr(self[name], "needs", ()))

    def hyperparameters(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the arguments that users may write."""
        hidden = (*self.supplied, *OF_LINEN)
        return {key: p for key, p in _signature(self[name]).parameters.items() if key not in hidden}

    def signature(self, name: str) -> str:
        """Return `name`, or `name(parameter=default, ...)`."""
        words = [f"{key}={p.default!r}" for key, p in self.hyperparameters(name).items()]
        return f"{name}({', '.join(words)})" if words else name

    def meaning(self, name: str) -> str:
        """Return the first line of the maker's docstring."""
        return (inspect.getdoc(self[name]) or "").partition("\n")[0]

    def help(self) -> str:
        """Return one line per part: its signature and its meaning."""
        return "\n".join(f"- {self.signature(name)}: {self.meaning(name)}" for name in self)

    def read(self, text: str) -> Call:
        """Read a call; its arguments become keywords, converted to their types.

        Raises:
            UserError: an unknown name, or an argument that the part does not take.
        """
        call = read_call(text)
        if call.name not in self:
            near = difflib.get_close_matches(call.name, self, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"`{self.kind}` {call.name} does not exist: choose from {', '.join(self)}.{hint}")
        signature = inspect.Signature(list(self.hyperparameters(call.name).values()))
        try:
            arguments = signature.bind(*call.args, **dict(call.kwargs)).arguments
        except TypeError as error:
            raise UserError(f"`{self.kind}` {call}: {error}; the signature is {self.signature(call.name)}.") from None
        hints, converted = _hints(self[call.name]), []
        for key, value in arguments.items():
            hint = hints.get(key, Any)
            try:
                converted.append((key, _in_range(as_type(value, hint), hint)))
            except (TypeError, ValueError) as error:
                raise UserError(f"`{self.kind}` {call}: {key} {error}.") from None
        return Call(call.name, (), tuple(converted))

    def make(self, text: str, **supplied: Any) -> Any:
        """Make the part that is written, passing it the supplied arguments that it takes.

        Raises:
            UserError: as for `read`, or a value that the part refuses.
        """
        call = self.read(text)
        accepted = {key: value for key, value in supplied.items() if self.accepts(call.name, key)}
        try:
            return self[call.name](**accepted, **dict(call.kwargs))
        except ValueError as error:
            raise UserError(f"`{self.kind}` {call}: {error}.") from None

    def load(self, call: Call) -> Callable[..., Any]:
        """Import the function or class `my_module:my_part` that a call names, from the current directory first.

        Raises:
            UserError: no such module or attribute.
        """
        module_name, _, attribute = call.name.partition(":")
        if not all(word.isidentifier() for word in (*module_name.split("."), attribute)):
            raise UserError(f"`{self.kind}` {call}: choose from {', '.join(self)}, or write my_module:my_{self.kind}.")
        folder = os.getcwd()
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            module = import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and not (module_name + ".").startswith(error.name + "."):
                raise  # the user's module exists; the traceback names the missing import
            raise UserError(f"`{self.kind}` {call}: no module {module_name} in {folder} or installed.") from None
        except SystemExit:
            raise UserError(
                f"`{self.kind}` {call}: {module_name} calls sys.exit when it is imported; move that call below "
                "if __name__ == '__main__'."
            ) from None
        maker: Any = getattr(module, attribute, None)
        if not callable(maker):
            file = getattr(module, "__file__", module_name)  # a built-in module has no file
            raise UserError(f"`{self.kind}` {call}: {file} has no function or class {attribute}.")
        return maker


def import_siblings(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that each registers its parts.

    Called as `import_siblings(__name__, __path__)` in the package's `__init__.py`.
    """
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")


@functools.cache
def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    init = maker.__init__ if inspect.isclass(maker) else maker
    return get_type_hints(init, include_extras=True) or get_type_hints(maker, include_extras=True)


def as_type(value: Any, hint: Any) -> Any:
    """Check a value against a type; an integer becomes a float where a float is expected.

    Raises:
        TypeError: the value has another type; the message completes "<name> ...".
    """
    if not _has_type(value, hint):
        raise TypeError(f"is {value!r:.200}, which is not {_type_name(hint)}")
    options = get_args(hint) or (hint,)
    if type(value) is not int or float not in options or int in options:
        return value
    if abs(value) > LARGEST_FLOAT:
        raise TypeError(f"is {value!s:.20}..., which is too large for a float")
    return float(value)


def _in_range(value: Any, hint: Any) -> Any:
    """Return the value if its integers are positive and JAX can represent all of its numbers.

    Raises:
        ValueError: another value; the message completes "<name> ...".
    """
    largest = MOST_LAYERS if LayerCount in (hint, *get_args(hint)) else LARGEST_INT
    for number in value if isinstance(value, tuple) else (value,):
        least, most = (1, largest) if type(number) is int else (-LARGEST_FLOAT, LARGEST_FLOAT)
        if type(number) in (int, float) and not least <= number <= most:
            raise ValueError(f"must be at least {least:,} and at most {most:,}")
    return value


def _has_type(value: Any, hint: Any) -> bool:
    """Check a value against a plain type, a choice, a tuple of one type, or a union; other types are not checked."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _has_type(value, options[0])
    if origin is Literal:
        return value in options
    if origin is tuple:
        return type(value) is tuple and all(_has_type(item, options[0]) for item in value)
    if origin in (Union, UnionType):
        plain = [option for option in options if option in _PLAIN]
        return not plain or any(_has_type(value, option) for option in plain)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint if hint in _PLAIN else True


def _type_name(hint: Any) -> str:
    """Name a type in an error: "int", "str or None", "one of mean, draw"."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin is tuple:
        return f"a tuple of {_type_name(options[0])}"
    names = [option.__name__ for option in options or (hint,) if option in _PLAIN]
    return " or ".join(names).replace("NoneType", "None")
