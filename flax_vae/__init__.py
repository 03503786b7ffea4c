"""Variational autoencoders as pure functions, on JAX, Flax Linen and Optax."""

__version__ = "0.1.0"


# Names are imported when they are asked for: a program can say what a Ctrl-C does before JAX is imported, which takes a
# second, and whoever wants one wing waits for no other. Which there are stands in __init__.pyi alone, where type
# checkers and editors look.
def __getattr__(name: str) -> object:
    from importlib import import_module
    from importlib.util import find_spec

    where = _exported()
    if name == "__all__":
        found: object = list(where)
    elif name in where:
        found = getattr(import_module(where[name]), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        found = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(globals().keys() | _exported().keys())


def _exported() -> dict[str, str]:
    """The module of each name."""
    import ast
    import pkgutil

    stub = ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"")
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
