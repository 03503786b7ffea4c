"""Registries of parts: text that users type becomes a value, in flags, in `config.json` and in Python alike.

    elbo    elbo(beta=4.0)    elbo(beta=warmup(epochs=2))    vamp(components=500)    my_module:my_prior(size=3)

A part is a frozen dataclass, a Linen module or a model, made by a function or a class. Each kind of part has one
`Parts`, in which every part is registered once, beside its definition. Help, errors, tables and tests read it. A part
of the user's own, `my_module:my_part`, is made in the same way.
"""

import contextlib
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar, get_args, get_type_hints

from flax_vae.calls import OF_LINEN, Call, bind_arguments, import_maker, parse
from flax_vae.literals import PLAIN, as_type, refuse_out_of_range
from flax_vae.system.errors import UserError

Maker = TypeVar("Maker", bound=Callable[..., Any])


class Parts(Mapping[str, Callable[..., Any]]):
    """The registry of one kind of part: names that users type, and the function or class that makes each part.

    A hyperparameter whose type is `Annotated[..., registry]` is a part itself.
    """

    def __init__(
        self,
        kind: str,
        supplied: tuple[str, ...] = (),
        unless_written: tuple[str, ...] = (),
        made: tuple[type, str] = (object, ""),
        called_with: str = "",
    ) -> None:
        """Start with an empty registry.

        Args:
            kind: the argument of `Config` in which a part of this kind is written, such as "prior".
            supplied: arguments that the package supplies; each maker gets those in its signature.
            unless_written: arguments that the package supplies unless users write them.
            made: the type of the parts, and its name in errors: `(nn.Module, "a Linen module")`.
            called_with: the arguments of the parts, if these are functions: "model, x, key, step". A function of the
                user's own is then a part itself, or makes one if all arguments that it needs are supplied or written.
        """
        self.kind, self.supplied, self.unless_written = kind, supplied, unless_written
        self.made, self.called_with = made, called_with
        self._makers: dict[str, Callable[..., Any]] = {}
        self.facts: dict[str, Mapping[str, Any]] = {}

    def register(self, name: str, **facts: Any) -> Callable[[Maker], Maker]:
        """Register the decorated maker under a name; `facts` are further attributes of the part.

        The fact `inside` is a function (supplied, **arguments) -> the arguments supplied to nested parts.
        """

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

    def maker(self, part: str | Call) -> Callable[..., Any]:
        """Return the function or class that makes a part; one of the user's own is imported.

        Raises:
            UserError: an unknown name, or one that cannot be imported.
        """
        call = parse(part) if isinstance(part, str) else part
        if call.name in self:
            return self[call.name]
        if not call.is_imported:
            near = difflib.get_close_matches(call.name, self, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"`{self.kind}` {call.name} does not exist: choose from {self._choices()}.{hint}")
        if not all(word.isidentifier() for word in call.name.replace(":", ".", 1).split(".")):
            raise UserError(f"`{self.kind}` {call}: choose from {self._choices()}.")
        try:
            return import_maker(call)
        except UserError as error:
            raise UserError(f"`{self.kind}` {call}: {error}") from None

    def _choices(self) -> str:
        return f"{', '.join(self)}, or write my_module:my_{self.kind.replace(' ', '_')}"

    def accepts(self, part: str | Call, argument: str) -> bool:
        """Return True if the maker takes this argument, supplied by the package or typed by the user."""
        return argument in inspect.signature(self.maker(part)).parameters

    def declared(self, part: str | Call, name: str, default: Any) -> Any:
        """Return a fact that a part declares in its registration, or as an attribute of its class."""
        facts = self.facts.get(part if isinstance(part, str) else part.name, {})
        return facts.get(name, getattr(self.maker(part), name, default))

    def needs(self, part: str | Call) -> tuple[str, ...]:
        """Return the requirements that a part declares."""
        return self.declared(part, "needs", ())

    def hyperparameters(self, part: str | Call) -> dict[str, inspect.Parameter]:
        """Return the arguments that users may write."""
        hidden = (*self.supplied, *OF_LINEN)
        return {key: p for key, p in inspect.signature(self.maker(part)).parameters.items() if key not in hidden}

    def signature(self, part: str | Call) -> str:
        """Return `name`, or `name(parameter, parameter=default, ...)`."""
        parameters = self.hyperparameters(part).items()
        words = [str(p.replace(annotation=p.empty)) for key, p in parameters if key not in self.unless_written]
        name = part if isinstance(part, str) else part.name
        return f"{name}({', '.join(words)})" if words else name

    def meaning(self, name: str) -> str:
        """Return the first line of the maker's docstring."""
        return (inspect.getdoc(self[name]) or "").partition("\n")[0]

    def help(self) -> str:
        """Return one line per part: its signature and its meaning."""
        return "\n".join(f"- {self.signature(name)}: {self.meaning(name)}" for name in self)

    def read(self, part: str | Call) -> Call:
        """Parse a part; the arguments of a registered one become keywords, converted to their types.

        Nothing is imported: `load` checks the arguments of a part of the user's own.

        Raises:
            UserError: an unknown name, or an argument that the part does not take.
        """
        call = parse(part) if isinstance(part, str) else part
        return call if call.is_imported else Call(call.name, (), tuple(self._typed(call).items()))

    def settings(self, part: str | Call) -> dict[tuple[str, ...], Any]:
        """Return the name of a part, at the path (), and its arguments with their defaults, at the paths (argument,).

        A nested part is at the path of its argument. A part of the user's own is not imported, so only the arguments
        that are written are returned.
        """
        return _settings(self.read(part), self)

    def _typed(self, call: Call) -> dict[str, Any]:
        """Return the arguments of a call by name, converted to their types; nested parts as `Call`."""
        maker = self.maker(call)
        try:
            parameters = self.hyperparameters(call)
        except ValueError as error:  # a builtin has no signature
            raise UserError(f"`{self.kind}` {call}: {error}.") from None
        try:
            signature = inspect.Signature(list(parameters.values()))
            arguments = signature.bind_partial(*call.args, **dict(call.kwargs)).arguments
            given = (*arguments, *self.unless_written)
            if missing := [key for key, p in parameters.items() if _is_required(p) and key not in given]:
                raise TypeError(f"missing a required argument: {missing[0]!r}")
        except TypeError as error:
            raise UserError(f"`{self.kind}` {call}: {error}; the signature is {self.signature(call)}.") from None
        for key, parameter in parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= arguments.pop(key, {})
        typed = {}
        for key, value in arguments.items():
            hint = _hint(maker, key)
            try:
                is_part = isinstance(value, Call) or not _takes_literals(hint)
                typed[key] = _nested(value, hint) if is_part else as_type(value, hint)
                if not call.is_imported:
                    refuse_out_of_range(typed[key], hint)
            except (TypeError, ValueError) as error:
                raise UserError(f"`{self.kind}` {call}: {key} {error}.") from None
        return typed

    def make(self, part: str | Call, **supplied: Any) -> Any:
        """Make a part from its text or `Call`, with those supplied arguments that its maker takes.

        Raises:
            UserError: as for `load`, or a value that the part refuses.
        """
        return self.load(part)(**supplied)

    def load(self, part: str | Call) -> Callable[..., Any]:
        """Return a function that makes a part from supplied arguments, of which the maker gets those that it takes.

        A part of the user's own is imported. Loading refuses bad input before long work; the part is made after it.

        Raises:
            UserError: an unknown name, one that cannot be imported, or an argument that the part does not take.
        """
        call = self.read(part)
        if self._is_imported_part(call):
            function = self._bound(call)
            return lambda **_: function
        maker, typed = self.maker(call), self._typed(call)

        def make(**supplied: Any) -> Any:
            accepted = {key: value for key, value in supplied.items() if key in inspect.signature(maker).parameters}
            inside = self.facts.get(call.name, {}).get("inside")
            if inside is not None:
                supplied = inside(supplied, **typed)
            parts = {
                key: _registry(_hint(maker, key)).make(value, **supplied)
                for key, value in typed.items()
                if isinstance(value, Call)
            }
            try:
                return self._checked(call, maker(**accepted | typed | parts))
            except ValueError as error:
                raise UserError(f"`{self.kind}` {call}: {error}.") from None

        return make

    def _is_imported_part(self, call: Call) -> bool:
        """Return True for a function of the user's own that is a part itself, rather than making one."""
        if not call.is_imported or not self.called_with or inspect.isclass(self.maker(call)):
            return False
        try:
            parameters = list(self.hyperparameters(call).values())
            inspect.Signature(parameters).bind(*call.args, **dict(call.kwargs))
        except (TypeError, ValueError):  # a ValueError if a builtin has no signature
            return True
        return False

    def _bound(self, call: Call) -> Callable[..., Any]:
        """Bind the written arguments of a function of the user's own; they come after those of `called_with`."""
        function, names = self.maker(call), self.called_with.split(", ")
        if not call.args and not call.kwargs:
            return self._checked(call, function)
        arguments = self._arguments(call, function, call)
        return functools.partial(function, **dict(list(arguments.items())[len(names) :]))

    def _checked(self, call: Call, made: Any) -> Any:
        """Return a part if it has the type and the arguments of its kind."""
        if self.called_with and call.is_imported:
            self._arguments(call, made, Call(call.name))
        if not isinstance(made, self.made[0]):
            raise UserError(f"`{self.kind}` {call} made an object of type {type(made).__name__}, not {self.made[1]}.")
        return made

    def _arguments(self, call: Call, function: Any, written: Call) -> dict[str, Any]:
        """Return the arguments of a part that is a function: those of `called_with`, and those that are written."""
        name = call.name.partition(":")[2]
        return bind_arguments(f"`{self.kind}` {call}", function, self.called_with, name, written)


def import_siblings(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that each registers its parts.

    Called as `import_siblings(__name__, __path__)` in the package's `__init__.py`.
    """
    for module in iter_modules(path):
        import_module(f"{package}.{module.name}")


@functools.cache
def _hints(maker: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a maker's arguments; none for those of the user's own that cannot be evaluated."""
    init = maker.__init__ if inspect.isclass(maker) else maker
    with contextlib.suppress(NameError, TypeError):  # names imported for type checkers only; a callable object
        return get_type_hints(init, include_extras=True) or get_type_hints(maker, include_extras=True)
    return {}


def _hint(maker: Callable[..., Any], key: str) -> Any:
    """Return the type of an argument, also of one that `**others` collects."""
    parameters = inspect.signature(maker).parameters
    others = next((name for name, p in parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD), key)
    return _hints(maker).get(key if key in parameters else others, Any)


def _is_required(parameter: inspect.Parameter) -> bool:
    """Return True if an argument has no default."""
    collects_others = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not collects_others


def _registry(hint: Any) -> Any:
    """Return the registry of the parts that an argument takes, or None."""
    return next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Parts)), None)


def _settings(call: Call, parts: Parts | None) -> dict[tuple[str, ...], Any]:
    """Return the settings of a part; `parts` is None inside a part of the user's own."""
    arguments = {f"argument {i + 1}": value for i, value in enumerate(call.args)} | dict(call.kwargs)
    registries = dict[str, Parts]()
    if parts is not None and not call.is_imported:
        maker, parameters = parts.maker(call), parts.hyperparameters(call)
        arguments = {key: p.default for key, p in parameters.items() if p.default is not p.empty} | arguments
        registries = {key: _registry(_hint(maker, key)) for key in arguments}
    settings: dict[tuple[str, ...], Any] = {(): call.name}
    for key, value in arguments.items():
        inside = _settings(value, registries.get(key)) if isinstance(value, Call) else {(): value}
        settings |= {(key, *path): each for path, each in inside.items()}
    return settings


def _takes_literals(hint: Any) -> bool:
    """Return True if an argument may be a literal, False if it is always a part."""
    return _registry(hint) is None or any(option in PLAIN for option in get_args(get_args(hint)[0]))


def _nested(value: Any, hint: Any) -> Call:
    """Read a part that is an argument.

    Raises:
        TypeError: the argument takes no such part; the message completes "<name> ...".
    """
    parts = _registry(hint)
    if parts is None or not isinstance(value, Call) or value.name not in parts:
        expected = "a literal" if parts is None else f"one of {', '.join(parts)}"
        raise TypeError(f"is {value!r:.200}, which is not {expected}")
    return parts.read(value)
