"""When a row was made, and when it was changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, event, func, inspect
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, Mapper, declared_attr, mapped_column

from onegov_orm.types import UTCDateTime

__all__ = ["TimestampMixin"]


class TimestampMixin:
    """Adds ``created`` and ``modified``, which follow what is written."""

    @staticmethod
    def timestamp() -> datetime:
        """Return the present time; to be overridden, also as a class method."""
        return datetime.now(UTC)

    @declared_attr
    @classmethod
    def created(cls) -> Mapped[datetime]:
        """When the row was inserted."""
        return mapped_column(UTCDateTime, insert_default=cls.timestamp)

    @declared_attr
    @classmethod
    def modified(cls) -> Mapped[datetime | None]:
        """When the row was last updated, None if it never was."""
        return mapped_column(UTCDateTime, nullable=True, onupdate=cls.timestamp)

    def force_update(self) -> None:
        """Have the row updated, even if nothing else of it changed."""
        self.modified = self.timestamp()

    @hybrid_property
    def last_change(self) -> datetime:
        """When the row was written last."""
        return self.modified or self.created

    @last_change.inplace.expression
    @classmethod
    def _last_change_expression(cls) -> ColumnElement[datetime]:
        return func.coalesce(cls.modified, cls.created)


class TimestampEvents:
    """Listens to the flush, which does not touch the mixin's table for each change of an object.

    With joined inheritance, ``onupdate`` does not see what changes in the table of a derived
    class.
    """

    def attach(self) -> None:
        """Listen to all classes of the mixin."""
        event.listen(TimestampMixin, "before_insert", self.before_insert, propagate=True)
        event.listen(TimestampMixin, "before_update", self.before_update, propagate=True)

    def before_insert(self, mapper: Mapper[Any], connection: Any, target: TimestampMixin) -> None:
        """Take the time from the object's own class."""
        if target.created is None:
            target.created = target.timestamp()

    def before_update(self, mapper: Mapper[Any], connection: Any, target: TimestampMixin) -> None:
        """Note the time, unless nothing changes or somebody gave a time."""
        state = inspect(target)
        touched = set(mapper.column_attrs.keys()) - state.unmodified
        changed = {key for key in touched if state.attrs[key].history.has_changes()}
        if changed and "modified" not in changed:
            target.modified = target.timestamp()


TimestampEvents().attach()
