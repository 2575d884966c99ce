"""Points in time: never without a time zone, and always read in UTC."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import DateTime, Dialect, Interval
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine

from onegov_orm.errors import NaiveDatetime

__all__ = ["UTCDateTime"]

GIVE_ZONE = "give it one, as in datetime.now(UTC) or value.replace(tzinfo=UTC)"
_GIVE_DATETIME = "give a datetime, such as that of datetime.fromisoformat()"
_ALTER_COLUMN = (
    "its column has none either; if what is in there is UTC, run ALTER TABLE ... ALTER COLUMN ... "
    "TYPE timestamp with time zone USING ... AT TIME ZONE 'UTC'"
)


class UTCDateTime(TypeDecorator[datetime]):
    """A timestamp with time zone, read in UTC whatever the time zone of the session is.

    Naive values raise `NaiveDatetime`, for they mean another moment in each time zone.
    """

    impl = DateTime
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(timezone=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def process_bind_param(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the value in UTC; raises `NaiveDatetime`."""
        if value is None:
            return None
        if not isinstance(value, datetime):
            raise NaiveDatetime(value, _GIVE_DATETIME)
        if value.utcoffset() is None:
            raise NaiveDatetime(value, GIVE_ZONE)
        return value.astimezone(UTC)

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str] | None:
        """Return what writes values into SQL, with their type: a text may be an interval too."""
        quoted = super().literal_processor(dialect)
        if quoted is None:
            return None
        return lambda value: f"TIMESTAMP WITH TIME ZONE {quoted(value)}"

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the value in UTC; raises `NaiveDatetime` if the column has no time zone."""
        if value is None or value.tzinfo is UTC:
            return value  # type: ignore[no-any-return]
        if value.tzinfo is None:
            raise NaiveDatetime(value, _ALTER_COLUMN)
        in_utc: datetime = value.astimezone(UTC)
        return in_utc

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> TypeEngine[Any]:
        """Return the type of what stands on the right side of an operator."""
        return Interval() if isinstance(value, timedelta) else self
