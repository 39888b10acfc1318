"""Which functions a child process can find, by `module:qualname`, and finding them there.

A function is never sent: the child imports its module. So it must have a name that leads to it from outside.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

from ...errors import ConfigError

__all__ = ["check_process_target", "find_process_target", "load_target"]


def check_process_target(function: Callable[..., Any]) -> str:
    """`module:qualname` of a function that a child process can import, else `ConfigError`.

    Made for the moment of registration, when a decorated function is not yet bound to its name: whether the name leads
    back to the function shows in the child. `__main__` is fine as long as it came from a file or a module.
    """
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or isinstance(function, type):
        raise ConfigError(
            f"executor='process': expected a function defined with def in a module, got {function!r:.200};"
            " a child process has to import it by name"
        )
    if "<" in qualname:
        kind = "a lambda" if qualname.endswith("<lambda>") else "a function defined inside another"
        raise ConfigError(
            f"executor='process': expected a function at the top of a module, got {kind}, {module}.{qualname};"
            " a child process cannot import it: move it to the top of its module"
        )
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, type) and not inspect.ismodule(owner):
        raise ConfigError(
            f"executor='process': expected a function or a static or class method, got a method of {owner!r:.200};"
            " a child process does not have that object"
        )
    if module == "__main__" and not _main_can_be_imported():
        raise ConfigError(
            f"executor='process': expected a function in a file, got {qualname} of an interactive session;"
            " a child process cannot import it: put it into a module"
        )
    return f"{module}:{qualname}"


def find_process_target(function: Callable[..., Any]) -> str:
    """`check_process_target` for a function that nobody asked to run in a process: `ConfigError` where that could do harm.

    The name must lead back to this very function, and importing the main script, as every child does, must not begin the
    program's work a second time.
    """
    target = check_process_target(function)
    if target.partition(":")[0] not in sys.modules or load_target(target) != function:
        raise ConfigError(
            f"expected {target} to lead to the task's function, got something else; name it as it is defined"
        )
    if not _main_is_harmless():
        raise ConfigError(
            'expected the main script to start its work under `if __name__ == "__main__":`, got none of that;'
            " a child process imports it"
        )
    return target


def load_target(target: str) -> Callable[..., Any]:
    """The function that `target` names, taken out of the task object that a decorator put in its place.

    Raises `ConfigError` if the name leads to nothing that can be called, and whatever importing the module raises.
    """
    module_name, _, qualname = target.partition(":")
    module = sys.modules.get(module_name) or importlib.import_module(module_name)
    try:
        found = reduce(getattr, qualname.split("."), module)
    except AttributeError:
        raise ConfigError(
            f"expected a function {qualname!r} in module {module_name!r}, found none of that name"
        ) from None
    function = getattr(found, "function", found)
    if not callable(function):
        raise ConfigError(f"expected {target} to be a function or a task, got {function!r:.200}")
    checked: Callable[..., Any] = function
    return checked


def _main_can_be_imported() -> bool:
    """By the rules of multiprocessing's spawn: it needs the name of a module or the path of a file."""
    main = sys.modules["__main__"]
    return getattr(main, "__spec__", None) is not None or getattr(main, "__file__", None) is not None


def _main_is_harmless() -> bool:
    """Whether a child does not import the main script (multiprocessing skips a package's `__main__`), or may."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and (spec.name == "__main__" or spec.name.endswith(".__main__")):
        return True
    if file is None:
        return spec is None
    try:
        body = ast.parse(Path(file).read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return False
    return any(isinstance(part, ast.If) and "__name__" in ast.unparse(part.test) for part in body)
