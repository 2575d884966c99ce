"""The errors of what models are made of; `onegov_orm.errors` has them all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy.exc import DontWrapMixin

from onegov_orm._orm_error import OrmError, shown


class NoCurrentLocale(OrmError, LookupError, DontWrapMixin):
    """No locale is set in this thread or task: call set_locale(default, current) first."""


class ModelNotFound(OrmError, LookupError):
    """No class has this polymorphic identity."""

    def __init__(self, model: type[Any], identity: object, identities: Iterable[object]) -> None:
        self.model = model
        self.identity = identity
        self.identities = tuple(identities)
        there_are = ", ".join(map(shown, self.identities)) or "none"
        super().__init__(
            f"no class of {model.__name__} has the polymorphic identity {shown(identity)}: "
            f"there are {there_are}. Import the module of the class first, or give a default"
        )


class MutableDefault(OrmError, ValueError):
    """The default of a property would be shared by all objects."""

    def __init__(self, default: object) -> None:
        self.default = default
        kind = type(default).__name__
        super().__init__(
            f"the default {shown(default)} would be shared by all objects: use default={kind}, "
            "or another callable that returns a new one"
        )


class NaiveDatetime(OrmError, ValueError, DontWrapMixin):
    """A point in time lacks its time zone."""

    def __init__(self, value: object, advice: str) -> None:
        self.value = value
        super().__init__(f"{shown(value)} is no datetime with a time zone: {advice}")


class NotSerializable(OrmError, TypeError, DontWrapMixin):
    """A value can't be written as JSON; ``path`` tells where in there."""

    def __init__(self, path: str, reason: str, advice: str | None = None) -> None:
        self.path = path
        advice = advice or (
            "use what JSON has, dates, decimals or UUIDs, or extend the serializers of the "
            "column's type"
        )
        super().__init__(f"{path} can't be written as JSON, for {reason}: {advice}")


class InvalidUUID(OrmError, ValueError, DontWrapMixin):
    """The value is not a UUID."""

    def __init__(self, value: object) -> None:
        self.value = value
        super().__init__(f"{shown(value)} is not a UUID: give a uuid.UUID, or the text of one")


class StaleValue(OrmError):
    """The value was changed after the object it was read from had let go of it."""

    def __init__(self, obj: object, attribute: str) -> None:
        self.attribute = attribute
        name = f"{type(obj).__name__}.{attribute}"
        super().__init__(
            f"a change would get lost, for {name} was expired or read again meanwhile, by a "
            f"commit, rollback or refresh: take the value from .{attribute} anew"
        )


class NotCacheable(OrmError, TypeError):
    """The value can't be kept in a cache that others read."""

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        super().__init__(
            f"{place} can't be cached, for {reason}: return plain data such as texts, numbers, "
            "dates, tuples, lists and dictionaries of these, use request_cached, or give the "
            "OrmCache a serializer for the type"
        )


class SelectableError(OrmError, ValueError):
    """The SQL can't be made a selectable."""

    def __init__(
        self,
        reason: str,
        column: str | None = None,
        line: int | None = None,
        path: str | None = None,
    ) -> None:
        self.reason = reason
        #: As it is written in the SQL.
        self.column = column
        self.line = line
        #: The file with the SQL.
        self.path = path
        where = [] if path is None else [path]
        if line is not None:
            where.append(f"line {line}")
        if column is not None:
            where.append(f"column {shown(column)}")
        super().__init__(f"{', '.join(where)}: {reason}" if where else reason)


class TreeError(OrmError, ValueError):
    """An item of a tree can't have this place or this name."""

    def __init__(self, item: object, reason: str) -> None:
        #: The item, as it shows itself.
        self.item = shown(item)
        self.reason = reason
        super().__init__(f"{self.item}: {reason}")
