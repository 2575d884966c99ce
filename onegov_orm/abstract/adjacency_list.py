"""Trees: items with a parent, children in their order, and a path."""

from __future__ import annotations

from onegov_orm.abstract._collection import AdjacencyListCollection
from onegov_orm.abstract._siblings import MoveDirection, sort_siblings
from onegov_orm.abstract._tree import AdjacencyListMixin
from onegov_orm.base import Base

__all__ = [
    "AdjacencyList",
    "AdjacencyListCollection",
    "AdjacencyListMixin",
    "MoveDirection",
    "sort_siblings",
]


class AdjacencyList(AdjacencyListMixin, Base):
    """An item of a tree, on the library's own base.

    ::

        class Page(AdjacencyList):
            __tablename__ = "pages"
    """

    __abstract__ = True
