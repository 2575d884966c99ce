"""Writes cached values as text and reads them again: data, never code, and no ORM objects.

Values are JSON. What JSON does not have is an object with one marked key, which tells the type.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from markupsafe import Markup
from sqlalchemy import Row

from onegov_orm.errors import NotCacheable

if TYPE_CHECKING:
    from onegov_orm._serializers import Serializer

_TYPE: Final = "$type"
_VALUE: Final = "value"

#: What JSON has itself; not for subclasses, which would come back as something else.
_PLAIN: Final = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A type that JSON has not: its name, and what makes it from JSON and to JSON."""

    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _seconds(value: timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


_SCALARS: Final[dict[type[Any], _Kind]] = {
    date: _Kind("date", date.isoformat, date.fromisoformat),
    datetime: _Kind("datetime", datetime.isoformat, datetime.fromisoformat),
    time: _Kind("time", time.isoformat, time.fromisoformat),
    timedelta: _Kind("timedelta", _seconds, lambda parts: timedelta(*parts)),
    Decimal: _Kind("decimal", str, Decimal),
    UUID: _Kind("uuid", str, UUID),
    bytes: _Kind("bytes", lambda value: base64.b64encode(value).decode(), base64.b64decode),
    Markup: _Kind("markup", str, Markup),
}

#: Those that hold other values, which are encoded before and decoded before.
_CONTAINERS: Final[dict[type[Any], _Kind]] = {
    tuple: _Kind("tuple", list, tuple),
    Row: _Kind("tuple", list, tuple),
    set: _Kind("set", list, set),
    frozenset: _Kind("frozenset", list, frozenset),
}
_PAIRS: Final = "dict"


class Codec:
    """Knows the types of values; those of ``serializers`` besides its own."""

    def __init__(self, serializers: Iterable[Serializer[Any]] = ()) -> None:
        own = {each.target: _Kind(each.name, each.encode, each.decode) for each in serializers}
        self._scalars = _SCALARS | own
        known = [*self._scalars.values(), *_CONTAINERS.values(), _Kind(_PAIRS, list, dict)]
        self._decoders = {kind.name: kind.decode for kind in known}

    def encode(self, value: Any, name: str) -> str:
        """Return the value as text; raises `NotCacheable` telling where in it the reason is."""
        plain = self._plain(value, name)
        return json.dumps(plain, separators=(",", ":"), ensure_ascii=False)

    def decode(self, text: str) -> Any:
        """Return a value that nobody else has."""
        return json.loads(text, object_hook=self._restore)

    def _restore(self, found: dict[str, Any]) -> Any:
        name = found.get(_TYPE)
        return found if name is None else self._decoders[name](found[_VALUE])

    def _plain(self, value: Any, place: str) -> Any:
        """Return the value in JSON's terms."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in self._scalars:
            known = self._scalars[kind]
            return {_TYPE: known.name, _VALUE: known.encode(value)}
        if kind in _CONTAINERS:
            known = _CONTAINERS[kind]
            return {_TYPE: known.name, _VALUE: self._items(value, place)}
        if hasattr(kind, "_sa_instance_state") or hasattr(value, "_sa_instance_state"):
            raise NotCacheable(place, f"a {kind.__name__} is an object of the session's")
        # Lists and dictionaries that track changes are as good as plain ones.
        if isinstance(value, list):
            return self._items(value, place)
        if isinstance(value, dict):
            return self._mapping(value, place)
        raise NotCacheable(place, f"a {kind.__name__} is not plain data")

    def _items(self, values: Iterable[Any], place: str) -> list[Any]:
        return [self._plain(value, f"{place}[{n}]") for n, value in enumerate(values)]

    def _mapping(self, value: dict[Any, Any], place: str) -> Any:
        if _TYPE not in value and all(type(key) is str for key in value):
            return {key: self._plain(each, f"{place}[{key!r}]") for key, each in value.items()}
        pairs = [
            [self._plain(key, f"{place}.keys()"), self._plain(each, f"{place}[{key!r}]")]
            for key, each in value.items()
        ]
        return {_TYPE: _PAIRS, _VALUE: pairs}
