"""What is public from one moment to another."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, literal, not_, or_
from sqlalchemy.ext.hybrid import hybrid_method, hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from onegov_orm.errors import NaiveDatetime
from onegov_orm.types import UTCDateTime

__all__ = ["UTCPublicationMixin"]


class UTCPublicationMixin:
    """Adds the first and the last moment of a publication, both of which belong to it.

    None is no limit on that side. In SQL the present is when the statement began, by the clock
    of the server; in Python it is that of the application.
    """

    publication_start: Mapped[datetime | None] = mapped_column(UTCDateTime)
    publication_end: Mapped[datetime | None] = mapped_column(UTCDateTime)

    @hybrid_property
    def publication_started(self) -> bool:
        """Whether the publication has begun; it may be over."""
        return has_started(self, datetime.now(UTC))

    @publication_started.inplace.expression
    @classmethod
    def _publication_started_expression(cls) -> ColumnElement[bool]:
        return has_started_in_sql(cls, present())

    @hybrid_property
    def publication_ended(self) -> bool:
        """Whether the publication is over."""
        return has_ended(self, datetime.now(UTC))

    @publication_ended.inplace.expression
    @classmethod
    def _publication_ended_expression(cls) -> ColumnElement[bool]:
        return has_ended_in_sql(cls, present())

    @hybrid_property
    def published(self) -> bool:
        """Whether it is public at present."""
        return is_published(self, datetime.now(UTC))

    @published.inplace.expression
    @classmethod
    def _published_expression(cls) -> ColumnElement[bool]:
        return is_published_in_sql(cls, present())

    @hybrid_method
    def published_as_of(self, moment: datetime) -> bool:
        """Tell whether it is public at a moment; raises `NaiveDatetime` for one without a zone."""
        return is_published(self, aware(moment))

    @published_as_of.expression
    @classmethod
    def _published_as_of_expression(cls, moment: datetime) -> ColumnElement[bool]:
        return is_published_in_sql(cls, literal(aware(moment), UTCDateTime()))


def aware(moment: datetime) -> datetime:
    """Return a moment that has its time zone; raises `NaiveDatetime` for others."""
    if moment.utcoffset() is None:
        raise NaiveDatetime(moment, "use datetime.now(UTC), or replace(tzinfo=...)")
    return moment


def present() -> ColumnElement[datetime]:
    """Return the time at which the statement began: the transaction may have for long."""
    return func.statement_timestamp(type_=UTCDateTime())


def has_started(item: UTCPublicationMixin, moment: datetime) -> bool:
    """Tell whether a publication has begun at a moment."""
    return item.publication_start is None or item.publication_start <= moment


def has_ended(item: UTCPublicationMixin, moment: datetime) -> bool:
    """Tell whether a publication is over at a moment."""
    return item.publication_end is not None and item.publication_end < moment


def is_published(item: UTCPublicationMixin, moment: datetime) -> bool:
    """Tell whether something is public at a moment."""
    return has_started(item, moment) and not has_ended(item, moment)


def has_started_in_sql(model: Any, moment: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return `has_started` in SQL, which is never NULL."""
    return or_(model.publication_start.is_(None), model.publication_start <= moment)


def has_ended_in_sql(model: Any, moment: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return `has_ended` in SQL, which is never NULL."""
    return and_(model.publication_end.is_not(None), model.publication_end < moment)


def is_published_in_sql(model: Any, moment: ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return `is_published` in SQL, which is never NULL."""
    return and_(has_started_in_sql(model, moment), not_(has_ended_in_sql(model, moment)))
