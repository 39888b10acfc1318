"""From `module:app` to the `Dispatcher` it names, and from a misspelt one to a sentence that helps.

It imports the user's module and nothing else of the user's; it connects to nothing.
"""

from __future__ import annotations

import importlib
import linecache
import sys
import traceback
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from ..runtime.app import Dispatcher
from .failures import CliError

__all__ = ["load_app", "looks_like_target", "pick"]

PACKAGE_FOLDER = str(Path(__file__).resolve().parent.parent)
MOST_FILES_LOOKED_AT = 2_000
MOST_FRAMES_SHOWN = 10
FOLDERS_NOT_LOOKED_AT = frozenset({"node_modules", "__pycache__", "site-packages", "venv", "build", "dist"})

Found = TypeVar("Found")


def load_app(target: str) -> tuple[str, Dispatcher]:
    """Import `module:attribute`, or `module` alone, and return its full name and the app.

    The current directory comes first on `sys.path`, as with `python -m`. Raises `CliError`.
    """
    module_name, _, attribute = target.partition(":")
    _check_spelling(target, module_name)
    if sys.path[:1] not in ([""], [str(Path.cwd())]):
        sys.path.insert(0, str(Path.cwd()))
    module = _imported(module_name)
    if attribute:
        return target, _attribute(module, attribute)
    apps = _apps_of(module)
    if len(apps) == 1:
        name, app = next(iter(apps.items()))
        return f"{module_name}:{name}", app
    if apps:
        raise CliError(
            f"module {module_name!r} has {len(apps)} apps: {', '.join(apps)}",
            f"say which: {module_name}:{next(iter(apps))}",
        )
    raise _no_app(module, f"module {module_name!r} has no Dispatcher in it")


def looks_like_target(word: str) -> bool:
    """Whether `word` has the form `module:attribute`."""
    module, colon, attribute = word.partition(":")
    return bool(colon) and _is_dotted(module) and _is_dotted(attribute)


def pick(what: str, name: str, choices: Mapping[str, Found], *, exit_code: int) -> Found:
    """`choices[name]`, or a `CliError` that names the nearest of them."""
    if name in choices:
        return choices[name]
    near = get_close_matches(name, choices, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif choices:
        hint = f"there are: {', '.join(sorted(choices)[:20])}"
    else:
        hint = "there are none"
    raise CliError(f"no {what} {name!r}", hint, exit_code=exit_code)


def _is_dotted(name: str) -> bool:
    return bool(name) and all(part.isidentifier() for part in name.split("."))


def _check_spelling(target: str, module: str) -> None:
    if _is_dotted(module) and not module.endswith(".py"):
        return
    hint = "for example: dispatcher worker tasks:app, where tasks.py holds app = Dispatcher()"
    path = Path(module)
    if path.suffix == ".py" or "/" in module or "\\" in module:
        parts = path.with_suffix("").parts
        if all(part.isidentifier() for part in parts):
            _, colon, attribute = target.partition(":")
            hint = f"write the module's name, not its file: {'.'.join(parts)}{colon}{attribute}"
    raise CliError(f"expected module:app, got {target!r}", hint)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            raise _not_found(name, missing) from None
        raise _broken(name, error) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything while it is imported, SystemExit too
        raise _broken(name, error) from None


def _not_found(name: str, missing: str) -> CliError:
    folder = Path.cwd()
    here = {module: path for module, path in _modules_under(folder)}
    near = get_close_matches(name, here, n=1, cutoff=0.6)
    same_last = [module for module in here if module.rpartition(".")[2] == name.rpartition(".")[2]]
    found = (same_last or near)[:1]
    if found:
        hint = f"the nearest is {here[found[0]]}: try {found[0]}"
    elif here:
        hint = "run it from the folder that holds the module, or put that folder on PYTHONPATH"
    else:
        hint = f"there is no Python file in {folder}; run it from the folder that holds the module"
    return CliError(f"no module {missing!r} (looked in {folder}, PYTHONPATH and the installed packages)", hint)


def _modules_under(folder: Path) -> Iterable[tuple[str, Path]]:
    """Modules up to three folders deep, as (dotted name, path relative to `folder`); a bounded number of them."""
    count = 0
    pending = [folder]
    while pending:
        current = pending.pop(0)
        try:
            entries = sorted(current.iterdir())
        except OSError:
            continue  # a folder that cannot be read holds nothing to suggest
        for entry in entries:
            count += 1
            if count > MOST_FILES_LOOKED_AT:
                return
            relative = entry.relative_to(folder)
            if entry.suffix == ".py" and entry.stem.isidentifier():
                parts = relative.parent.parts if entry.stem == "__init__" else relative.with_suffix("").parts
                if parts:
                    yield ".".join(parts), relative
            elif entry.name.isidentifier() and entry.name not in FOLDERS_NOT_LOOKED_AT:
                if len(relative.parts) < 3 and entry.is_dir() and not entry.is_symlink():
                    pending.append(entry)


def _broken(name: str, error: BaseException) -> CliError:
    """The user's module failed while it was imported: the user's own error and lines, none of ours."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        line = (error.text or "").strip()
        text = f"{type(error).__name__}: {error.msg}"
        return CliError(f"cannot import {name!r}: {text}", detail=[f"{_short(error.filename)}:{error.lineno}: {line}"])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((PACKAGE_FOLDER, "<frozen importlib")) and frame.filename != importlib.__file__
    ]
    detail = [
        f"{_short(frame.filename)}:{frame.lineno}: {linecache.getline(frame.filename, frame.lineno or 0).strip()}"
        for frame in frames[-MOST_FRAMES_SHOWN:]
    ]
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = f"install what provides {error.name!r} into this environment ({sys.prefix})"
    return CliError(f"cannot import {name!r}: {text}", hint, detail=detail)


def _short(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _attribute(module: ModuleType, attribute: str) -> Dispatcher:
    value: object = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise _no_app(module, f"module {module.__name__!r} has no {attribute!r}", attribute)
        value = getattr(value, part)
    if not isinstance(value, Dispatcher):
        raise _no_app(
            module, f"expected {module.__name__}:{attribute} to be a Dispatcher, got {type(value).__name__}", attribute
        )
    return value


def _no_app(module: ModuleType, message: str, wanted: str = "") -> CliError:
    apps = _apps_of(module)
    if apps:
        near = get_close_matches(wanted, apps, n=1, cutoff=0) or list(apps)
        return CliError(message, f"did you mean {module.__name__}:{near[0]}?")
    names = [name for name in vars(module) if not name.startswith("_")]
    there = f"it holds: {', '.join(names[:15])}" if names else "it is empty"
    return CliError(message, f"{there}; an app is made with `app = Dispatcher()`")


def _apps_of(module: ModuleType) -> dict[str, Dispatcher]:
    """The module's apps by name; one app under two names counts once."""
    apps: dict[str, Dispatcher] = {}
    for name, value in vars(module).items():
        if isinstance(value, Dispatcher) and not any(value is other for other in apps.values()):
            apps[name] = value
    return apps
