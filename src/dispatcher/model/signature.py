"""A function's signature as the wire sees it: positional, typed, checked by the sender and again by the receiver.

Built once, at registration, where everything that can never work is a `ConfigError`. It never calls the function
and never decides a fate: what does not fit is an `ArgumentError` that names the parameter.

Only given arguments travel: a gap between them is filled from its default, and the receiving function fills the
rest. `*args` are accepted, each element being of the type they are annotated with; what can be passed by keyword only
is not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from ..errors import ArgumentError, ConfigError
from .parameter import NOTHING, Parameter, make_parameter, read_text
from .task import TaskArgument
from .wire import WIRE_TYPES, Converter

__all__ = ["Signature"]


class Signature:
    """What a task's function takes. Made by `Signature.of`; `name` is the task's, for error messages."""

    __slots__ = ("_encoders", "_names", "_positions", "_required", "_rest", "_tables", "name", "parameters")

    def __init__(
        self, name: str, parameters: Sequence[Parameter], by_position_only: int, rest: Parameter | None
    ) -> None:
        self.name = name
        self.parameters = tuple(parameters)
        self._rest = rest
        self._tables = tuple(p.decoders for p in parameters)
        self._encoders = tuple(p.encode for p in parameters)
        self._names = ", ".join([p.name for p in parameters] + ([f"*{rest.name}"] if rest else []))
        self._positions = {p.name: index for index, p in enumerate(parameters) if index >= by_position_only}
        self._required = sum(p.required for p in parameters)

    @classmethod
    def of(cls, function: Callable[..., Any], *, skip_first: bool = False, name: str) -> Signature:
        """The signature of `function`, the task `name`.

        `skip_first`: the first parameter gets the task's uuid from the worker; it is neither sent nor checked.
        Raises `ConfigError` for keyword-only parameters, `**kwargs`, an annotation that cannot be resolved, and a
        required parameter of a type that JSON cannot carry.
        """
        try:
            found = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError, NameError) as error:
            raise ConfigError(f"task {name!r}: expected a function whose signature Python knows: {error}") from None
        if skip_first:
            if not found or found[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
                raise ConfigError(f"task {name!r}: expected a first parameter that takes the task's uuid, got none")
            if found[0].kind is not inspect.Parameter.VAR_POSITIONAL:
                del found[0]
        parameters, rest, by_position_only = [], None, 0
        for item in found:
            if item.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
                shown = f"**{item.name}" if item.kind is inspect.Parameter.VAR_KEYWORD else f"keyword-only {item.name}"
                raise ConfigError(
                    f"task {name!r}: expected parameters that can be passed by position, got {shown};"
                    " arguments travel by position only"
                )
            parameter = make_parameter(function, item, name)
            if item.kind is inspect.Parameter.VAR_POSITIONAL:
                rest = parameter
            else:
                parameters.append(parameter)
                by_position_only += item.kind is inspect.Parameter.POSITIONAL_ONLY
        return cls(name, parameters, by_position_only, rest)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[TaskArgument, ...]:
        """The arguments to send for a call with `args` and `kwargs`: those given, gaps between them from the defaults.

        Raises `ArgumentError` for a wrong count, an unknown name, and a value that does not fit its parameter.
        """
        if kwargs:
            args = self._place(args, kwargs)
        count = len(args)
        encoders: Iterable[Callable[[Any], TaskArgument]] = self._encoders
        if not self._required <= count <= len(self._encoders):
            encoders = [parameter.encode for parameter in self._for(count)]
        bound: list[TaskArgument] = []
        try:  # one for all, as in `check`
            for encode, value in zip(encoders, args):  # noqa: B905, as in `check`
                bound.append(encode(value))
        except ArgumentError as error:
            name = self._for(count)[len(bound)].name
            raise ArgumentError(f"task {self.name!r}, argument {name!r}: {error}") from None
        return tuple(bound)

    def check(self, args: Sequence[TaskArgument]) -> list[Any]:
        """The Python values of received `args`, to call the function with; its defaults fill what is missing.

        Raises `ArgumentError`, which does not show any value, for whatever does not fit.
        """
        count = len(args)
        tables: Iterable[Mapping[str, Converter]] = self._tables
        if not self._required <= count <= len(self._tables):
            tables = [parameter.decoders for parameter in self._for(count)]
        values: list[Any] = []
        try:  # one for all: this is the worker's hot path, and the length of `values` says where it stopped
            for table, arg in zip(tables, args):  # noqa: B905, strict= costs a fifth of the whole
                values.append(table[arg.type](arg.value))
        except (ArgumentError, KeyError) as error:
            raise self._refusal(len(values), args[len(values)], error) from None
        return values

    def _refusal(self, index: int, arg: TaskArgument, error: Exception) -> ArgumentError:
        parameter = self.parameters[index] if index < len(self.parameters) else self._rest
        assert parameter is not None  # more arguments than parameters were refused before
        if isinstance(error, ArgumentError):
            why = str(error)
        elif arg.type in WIRE_TYPES:
            why = f"expected wire type {parameter.wire}, got {arg.type!r}"
        else:
            why = f"expected one of the wire types {', '.join(WIRE_TYPES)}, got {arg.type!r:.60}"
        return ArgumentError(f"task {self.name!r}, argument {parameter.name!r}: {why}")

    def parse_text(self, words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
        """Command-line `words`, each `value` or `name=value`, as positional and keyword values for `bind`.

        A word is `name=value` only where `name` is a parameter. The parameter's type says how a value is read:
        a number, `true` or `false`, text as it is, else JSON; what is not JSON, or fits only as text, is text.
        Raises `ArgumentError` for what cannot be read.
        """
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for word in words:
            key, equals, text = word.partition("=")
            if equals and key in self._positions:
                if key in kwargs:
                    raise ArgumentError(f"task {self.name!r}: expected argument {key!r} once, got it twice")
                kwargs[key] = read_text(self.name, self.parameters[self._positions[key]], text)
            elif len(args) < len(self.parameters):
                args.append(read_text(self.name, self.parameters[len(args)], word))
            elif self._rest is not None:
                args.append(read_text(self.name, self._rest, word))
            else:
                raise self._wrong_count(len(args) + 1)
        return args, kwargs

    def _for(self, count: int) -> Sequence[Parameter]:
        """The parameters that `count` arguments are for."""
        if self._required <= count <= len(self.parameters):
            return self.parameters
        if count < self._required or self._rest is None:
            raise self._wrong_count(count)
        return [*self.parameters, *repeat(self._rest, count - len(self.parameters))]

    def _wrong_count(self, count: int) -> ArgumentError:
        least, most = self._required, len(self.parameters)
        if self._rest is not None:
            expected = f"at least {least}"
        else:
            expected = str(most) if most == least else f"{least} to {most}"
        names = f" ({self._names})" if self._names else ""
        noun = "argument" if expected.split()[-1] == "1" else "arguments"
        return ArgumentError(f"task {self.name!r}: expected {expected} {noun}{names}, got {count}")

    def _place(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        placed = list(args)
        if len(placed) > len(self.parameters) and self._rest is None:
            raise self._wrong_count(len(placed) + len(kwargs))
        placed += [NOTHING] * (len(self.parameters) - len(placed))
        last = len(args)
        for key, value in kwargs.items():
            index = self._positions.get(key)
            if index is None:
                named = ", ".join(self._positions) or "by position only"
                raise ArgumentError(f"task {self.name!r}: expected arguments named {named}, got {key!r}")
            if index < len(args):
                raise ArgumentError(f"task {self.name!r}: expected argument {key!r} once, got it by place and by name")
            placed[index] = value
            last = max(last, index + 1)
        del placed[last:]
        for index, value in enumerate(placed):
            if value is NOTHING:
                parameter = self.parameters[index]
                if parameter.required:
                    raise ArgumentError(f"task {self.name!r}: expected argument {parameter.name!r}, got none")
                placed[index] = parameter.default
        return placed
