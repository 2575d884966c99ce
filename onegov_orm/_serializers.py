"""JSON that keeps dates, decimals, UUIDs and an application's own types, as texts with a mark.

A value of a type that JSON does not know is written as ``__date__@2020-01-01``. A text that
happens to begin like that is written as ``__str__@__date__@...``, and so comes back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from math import isfinite
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from onegov_orm.errors import ConfigurationError, NotSerializable

__all__ = ["Serializer", "Serializers", "default_serializers"]

T = TypeVar("T")

_NAME: Final = re.compile(r"[A-Za-z]+")
_MARK: Final = re.compile(r"__([A-Za-z]+)__@")

#: The name that marks a text which begins like a mark.
_TEXT: Final = "str"

#: What JSON has a form for, so that nobody else has to give it one.
_PLAIN: Final = (str, int, float, dict, list, tuple)

#: Where a value stands: the place of its container, and its key or index in there.
_Place = tuple["_Place | None", object]


@dataclass(frozen=True)
class Serializer(Generic[T]):
    """How the values of one class, and of classes derived from it, are written and read.

    The name is of plain letters and stays for good, for it is in the database. What ``decode``
    raises an error for is left as the text that it is.
    """

    target: type[T]
    name: str
    encode: Callable[[T], str]
    decode: Callable[[str], T]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == _TEXT:
            raise ConfigurationError(
                f"{self.name!r} can't name a serializer: use plain letters, not {_TEXT!r}"
            )
        if self.target in (*_PLAIN, bool, object) or issubclass(self.target, (dict, list)):
            raise ConfigurationError(
                f"{self.target.__name__} is written as JSON has it: a serializer is for others"
            )


@dataclass(frozen=True)
class Serializers:
    """A set of serializers, which never changes: `extended` returns another one."""

    serializers: tuple[Serializer[Any], ...] = ()
    _by_name: dict[str, Serializer[Any]] = field(init=False, repr=False, compare=False)
    _by_target: dict[type, Serializer[Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {each.name: each for each in self.serializers}
        by_target = {each.target: each for each in self.serializers}
        if not len(by_name) == len(by_target) == len(self.serializers):
            raise ConfigurationError("two serializers have the same name, or the same target")
        object.__setattr__(self, "_by_name", by_name)
        object.__setattr__(self, "_by_target", by_target)

    def extended(self, *serializers: Serializer[Any]) -> Serializers:
        """Return these serializers and others."""
        return Serializers((*self.serializers, *serializers))

    def encode(self, value: object) -> Any:
        """Return a copy that is made of what JSON knows; raises `NotSerializable`."""
        try:
            return self._encode(value, None)
        except RecursionError:
            raise NotSerializable("value", "it contains itself, or is too deep") from None

    def decode(self, structure: Any) -> Any:
        """Return what was encoded; lists and dictionaries are changed in place."""
        kind = structure.__class__
        if kind is str:
            return self.decode_text(structure)
        if kind is dict or kind is list:
            self._decode_inside(structure)
        return structure

    def decode_text(self, text: str) -> Any:
        """Return the value of a text that has a mark, or else the text."""
        mark = _MARK.match(text)
        if mark is None:
            return text
        name, rest = mark[1], text[mark.end() :]
        if name == _TEXT:
            return rest if _MARK.match(rest) else text
        serializer = self._by_name.get(name)
        if serializer is None:
            return text
        try:
            return serializer.decode(rest)
        except Exception:
            # A text that somebody typed must not make the row unreadable.
            return text

    def _decode_inside(self, container: Any) -> None:
        # The keys stay the same, so a dictionary can be changed on the way.
        items = container.items() if container.__class__ is dict else enumerate(container)
        for key, value in items:
            kind = value.__class__
            if kind is str:
                if value[:2] == "__":
                    container[key] = self.decode_text(value)
            elif kind is dict or kind is list:
                self._decode_inside(value)

    def _encode(self, value: Any, place: _Place | None) -> Any:
        kind = value.__class__
        if kind is str:
            return _escaped(value)
        if value is None or kind is int or kind is bool:
            return value
        for base in kind.__mro__:
            serializer = self._by_target.get(base)
            if serializer is not None:
                return f"__{serializer.name}__@{serializer.encode(value)}"
            if base in _PLAIN:
                return self._encode_plain(value, base, place)
        raise NotSerializable(_path(place), f"no serializer is for {kind.__qualname__}")

    def _encode_plain(self, value: Any, base: type, place: _Place | None) -> Any:
        if base is dict:
            return {
                _checked_key(key, place): self._encode(item, (place, key))
                for key, item in value.items()
            }
        if base is list or base is tuple:
            return [self._encode(item, (place, index)) for index, item in enumerate(value)]
        if base is str:
            return _escaped(str.__str__(value))
        if base is float and not isfinite(value):
            raise NotSerializable(_path(place), f"JSON has no {float(value)}")
        return base(value)


def _escaped(text: str) -> str:
    return f"__{_TEXT}__@{text}" if text[:2] == "__" and _MARK.match(text) else text


def _checked_key(key: object, place: _Place | None) -> str:
    if not isinstance(key, str):
        raise NotSerializable(
            _path((place, key)), "keys are texts in JSON", f"write the key as {str(key)!r}"
        )
    return str.__str__(key)


def _path(place: _Place | None) -> str:
    """Return how to get at a value, as Python: ``value['a'][3]``."""
    return "value" + "".join(f"[{key!r}]" for key in reversed([*_steps(place)]))


def _steps(place: _Place | None) -> Iterator[object]:
    while place is not None:
        place, key = place
        yield key


def _written(moment: datetime | time) -> str:
    """Write UTC as Z, which the rows of older applications have."""
    text = moment.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


#: Dates, times, datetimes, decimals and UUIDs.
default_serializers: Final = Serializers(
    (
        Serializer(datetime, "datetime", encode=_written, decode=datetime.fromisoformat),
        Serializer(date, "date", encode=date.isoformat, decode=date.fromisoformat),
        Serializer(time, "time", encode=_written, decode=time.fromisoformat),
        Serializer(Decimal, "decimal", encode=str, decode=Decimal),
        Serializer(UUID, "uuid", encode=str, decode=UUID),
    )
)
