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
from zoneinfo import ZoneInfo

from markupsafe import Markup
from sqlalchemy import Row, RowMapping

from onegov_orm.errors import ConfigurationError, NotCacheable

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


def _with_zone(value: datetime | time) -> list[Any]:
    """Return a moment with the name of its time zone, if that is a place's."""
    zone = value.tzinfo
    return [value.isoformat(), zone.key if isinstance(zone, ZoneInfo) else None]


def _datetime(parts: list[Any]) -> datetime:
    value = datetime.fromisoformat(parts[0])
    return value if parts[1] is None else value.astimezone(ZoneInfo(parts[1]))


def _time(parts: list[Any]) -> time:
    value = time.fromisoformat(parts[0])
    return value if parts[1] is None else value.replace(tzinfo=ZoneInfo(parts[1]))


_SCALARS: Final[dict[type[Any], _Kind]] = {
    date: _Kind("date", date.isoformat, date.fromisoformat),
    datetime: _Kind("datetime", _with_zone, _datetime),
    time: _Kind("time", _with_zone, _time),
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
        self._own = own
        known = [*_SCALARS.values(), *_CONTAINERS.values(), _Kind(_PAIRS, list, dict)]
        self._decoders = {kind.name: kind.decode for kind in known}
        for kind in own.values():
            if kind.name in self._decoders:
                raise ConfigurationError(
                    f'a serializer for cached values can\'t be called "{kind.name}": the name is '
                    "taken"
                )
            self._decoders[kind.name] = kind.decode

    def encode(self, value: Any, name: str) -> str:
        """Return the value as text; raises `NotCacheable` telling where in it the reason is."""
        try:
            return json.dumps(self._plain(value, name), separators=(",", ":"))
        except RecursionError:
            raise NotCacheable(name, "it contains itself, or is too deep") from None
        except ValueError as exc:
            raise NotCacheable(name, str(exc)) from exc

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
        scalar = _SCALARS.get(kind) or self._own_kind(kind)
        if scalar is not None:
            return {_TYPE: scalar.name, _VALUE: scalar.encode(value)}
        if kind in _CONTAINERS:
            known = _CONTAINERS[kind]
            return {_TYPE: known.name, _VALUE: self._items(value, place)}
        if hasattr(kind, "_sa_instance_state") or hasattr(value, "_sa_instance_state"):
            raise NotCacheable(place, f"it is a {kind.__name__}, an object of a session")
        # Lists and dictionaries that track changes are as good as plain ones.
        if isinstance(value, list):
            return self._items(value, place)
        if isinstance(value, (dict, RowMapping)):
            return self._mapping(dict(value), place)
        raise NotCacheable(place, f"it is a {kind.__name__}, which is no plain data")

    def _own_kind(self, kind: type[Any]) -> _Kind | None:
        return next((self._own[each] for each in kind.__mro__ if each in self._own), None)

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
