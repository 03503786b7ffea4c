"""Parts by name: what users type becomes a value, in flags, in `config.json` and in Python alike.

    elbo    elbo(beta=4.0)    vamp(components=500)    my_module:my_objective(weight=2.0)

A part is what a function or a class makes: a frozen dataclass, a Linen module, a model. Each kind of part has one
`Parts`, in which a part is registered once, beside its definition. Help, errors, tables and tests read it.

A call is read by `ast` and its arguments are literals: nothing is evaluated.
"""

import ast
import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from flax_vae.system.errors import UserError

Maker = TypeVar("Maker", bound=Callable[..., Any])
LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4e38  # of the 32 bits that JAX counts and computes in
MOST_LAYERS = 100  # each is traced and compiled by itself, which takes seconds
_REPEATED = ("layers", "depths", "blocks")  # hyperparameters that count them
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Call:
    """A part as it is written: a name, and arguments by position and by keyword."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """As one would write it: `name`, or `name(1, key=2)`."""
        words = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs)]
        return f"{self.name}({', '.join(words)})" if words else self.name


def read_call(text: str) -> Call:
    """Read `name`, `name(arguments)` or `module:name(arguments)`.

    Raises:
        UserError: another form, or an argument that is not a literal.
    """
    found = re.fullmatch(r"\s*([\w.:]+)\s*(\(.*\))?\s*", text, re.DOTALL)
    try:
        call = ast.parse(f"f{found[2] or '()'}" if found else "", mode="eval").body
        if not found or not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError
        if any(word.arg is None for word in call.keywords):  # **
            raise SyntaxError
        args = tuple(ast.literal_eval(word) for word in call.args)
        kwargs = tuple((str(word.arg), ast.literal_eval(word.value)) for word in call.keywords)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise UserError(
            f"{text!r:.200} is not a name or a call with literal arguments, such as renyi or renyi(alpha=0.3)."
        ) from None
    return Call(found[1], args, kwargs)


class Parts(Mapping[str, Callable[..., Any]]):
    """The parts of one kind: what makes each of them, by the name that users type."""

    def __init__(self, kind: str, supplied: tuple[str, ...] = ()) -> None:
        """Begin without any.

        Args:
            kind: what they are called in flags: `--kind`.
            supplied: arguments that the package gives, of which each part takes those that it names.
        """
        self.kind, self.supplied = kind, supplied
        self._makers: dict[str, Callable[..., Any]] = {}
        self.facts: dict[str, Mapping[str, Any]] = {}

    def register(self, name: str, **facts: Any) -> Callable[[Maker], Maker]:
        """Register what follows by a name; `facts` are what else is to be known of it."""

        def add(maker: Maker) -> Maker:
            self._makers[name], self.facts[name] = maker, facts
            return maker

        return add

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """What makes the part of a name."""
        return self._makers[name]

    def __iter__(self) -> Iterator[str]:
        """The names, in the order of the alphabet."""
        return iter(sorted(self._makers))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._makers)

    def accepts(self, name: str, argument: str) -> bool:
        """Whether the part of a name takes an argument, supplied or typed."""
        return argument in _signature(self[name]).parameters

    def hyperparameters(self, name: str) -> dict[str, inspect.Parameter]:
        """What users may type in its brackets."""
        hidden = (*self.supplied, "parent", "name")  # the last two are Linen's
        return {key: p for key, p in _signature(self[name]).parameters.items() if key not in hidden}

    def signature(self, name: str) -> str:
        """`name`, or `name(parameter=default, ...)`."""
        own = [f"{key}={p.default!r}" for key, p in self.hyperparameters(name).items()]
        return f"{name}({', '.join(own)})" if own else name

    def meaning(self, name: str) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self[name]) or "").partition("\n")[0]

    def help(self) -> str:
        """A line for each: signature and meaning."""
        return "\n".join(f"- {self.signature(name)}: {self.meaning(name)}" for name in self)

    def read(self, text: str) -> Call:
        """The call, its arguments by keyword and of their types.

        Raises:
            UserError: no part of that name, or an argument that it does not take.
        """
        call = read_call(text)
        if call.name not in self:
            near = difflib.get_close_matches(call.name, self, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"--{self.kind} {call.name}: there are {', '.join(self)}.{hint}")
        own = self.hyperparameters(call.name)
        hints = _hints(self[call.name])
        try:
            bound = inspect.Signature(list(own.values())).bind(*call.args, **dict(call.kwargs)).arguments
        except TypeError as error:
            raise UserError(f"--{self.kind} {call}: {error}; it is {self.signature(call.name)}.") from None
        values = []
        for key, value in bound.items():
            try:
                value = as_type(value, hints.get(key, Any))
            except TypeError as error:
                raise UserError(f"--{self.kind} {call}: {key} is {error}.") from None
            for number in value if isinstance(value, tuple) else (value,):
                largest = MOST_LAYERS if key in _REPEATED else LARGEST_INT
                least, most = (1, largest) if type(number) is int else (-LARGEST_FLOAT, LARGEST_FLOAT)
                if type(number) in (int, float) and not least <= number <= most:
                    raise UserError(f"--{self.kind} {call}: {key} must be at least {least:,} and at most {most:,}.")
            values.append((key, value))
        return Call(call.name, (), tuple(values))

    def make(self, text: str, **supplied: Any) -> Any:
        """The part that is written, with those of the supplied arguments that it names.

        Raises:
            UserError: as for `read`, or a value that the part refuses.
        """
        call = self.read(text)
        wanted = {key: value for key, value in supplied.items() if self.accepts(call.name, key)}
        try:
            return self[call.name](**wanted, **dict(call.kwargs))
        except ValueError as error:
            raise UserError(f"--{self.kind} {call}: {error}.") from None


def import_siblings(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that each registers its parts.

    Called as `import_siblings(__name__, __path__)` in the package's `__init__.py`.
    """
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")


@functools.cache
def _signature(maker: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(maker)


@functools.cache
def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(maker.__init__ if inspect.isclass(maker) else maker) or get_type_hints(maker)


def as_type(value: Any, hint: Any) -> Any:
    """A value as one of a type: a whole number becomes a float where no int is wanted.

    Raises:
        TypeError: it is of another type, in words that follow "is".
    """
    if not _has_type(value, hint):
        raise TypeError(f"{value!r:.200}, which is not {_type_name(hint)}")
    options = get_args(hint) or (hint,)
    if type(value) is not int or float not in options or int in options:
        return value
    if abs(value) > LARGEST_FLOAT:
        raise TypeError(f"{value!s:.20}..., which is too large for a float")
    return float(value)


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: plain, a choice, a tuple of one type, or a union; others are not checked."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return type(value) is tuple and all(_has_type(each, get_args(hint)[0]) for each in value)
    if isinstance(hint, UnionType) or str(get_origin(hint)) == "typing.Union":
        plain = [each for each in get_args(hint) if each in _PLAIN]
        return not plain or any(_has_type(value, each) for each in plain)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint if hint in _PLAIN else True


def _type_name(hint: Any) -> str:
    """A type in an error: "int", "str or None", "one of mean, draw"."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return f"a tuple of {_type_name(get_args(hint)[0])}"
    names = [each.__name__ for each in get_args(hint) or (hint,) if each in _PLAIN]
    return " or ".join(names).replace("NoneType", "None")
