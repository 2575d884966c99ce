"""Columns that count or sum up what belongs to an object, and are kept right by each flush.

::

    class Topic(Base):
        comments: Mapped[list[Comment]] = relationship(back_populates='topic')

        @aggregated('comments', mapped_column(Integer, default=0))
        def comment_count(self) -> ColumnElement[int]:
            return func.count()

They are kept for the sessions of managers, and for no others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from sqlalchemy import Column, ColumnElement
from sqlalchemy.orm import Mapped, MappedColumn

from onegov_orm._derived.aggregate import MARK, Aggregated
from onegov_orm._derived.aggregating import aggregates
from onegov_orm._flush_hooks import register
from onegov_orm.errors import ConfigurationError

__all__ = ["aggregated"]

T = TypeVar("T")


def aggregated(
    relationship: str, column: Column[Any] | MappedColumn[Any]
) -> Callable[[Callable[[Any], ColumnElement[T]]], Mapped[T]]:
    """Make a column hold the aggregate of what a relationship leads to.

    The decorated method gets the class, and returns the expression, such as ``func.count()``
    or ``func.sum(Comment.votes)``. The column has its default where the expression is NULL.

    :param relationship: the name of a relationship, or several with dots between.
    :param column: the column of the class.

    Raises `ConfigurationError` for what is no column; what is no relationship raises it in the
    first flush.
    """
    given: tuple[object, object] = (relationship, column)
    if not isinstance(given[0], str) or not isinstance(given[1], (Column, MappedColumn)):
        raise ConfigurationError(
            "aggregated takes a relationship's name and a column: "
            "@aggregated('comments', mapped_column(Integer))"
        )

    own = column.column if isinstance(column, MappedColumn) else column

    def decorate(function: Callable[[Any], ColumnElement[T]]) -> Mapped[T]:
        own.info[MARK] = Aggregated(relationship, function)
        return cast("Mapped[T]", column)

    aggregates.follow()
    register(aggregates)
    return decorate
