"""A tree of pages for tests, and what is sent to the server about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from sqlalchemy import ForeignKey, event, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm.abstract import AdjacencyListCollection, AdjacencyListMixin


class Base(DeclarativeBase):
    """A base of one's own."""


class Page(AdjacencyListMixin, Base):
    """Something with a title."""

    __tablename__ = "pages"


class Topic(Page):
    """A kind of page in the same table."""

    __mapper_args__ = {"polymorphic_identity": "topic"}


class News(Page):
    """A kind of page with a table of its own."""

    __tablename__ = "news"
    __mapper_args__ = {"polymorphic_identity": "news"}

    id: Mapped[int] = mapped_column(ForeignKey("pages.id"), primary_key=True)
    lead: Mapped[str | None]


class Pages(AdjacencyListCollection[Page]):
    """All pages."""

    __listclass__ = Page


class Topics(AdjacencyListCollection[Topic]):
    """The topics among them."""

    __listclass__ = Topic


def titles(pages: Any) -> list[str]:
    """Return the titles of pages."""
    return [page.title for page in pages]


def stored_titles(session: Any, parent_id: int | None = None) -> list[str]:
    """Return the titles of siblings as the database has them."""
    session.flush()
    children = Page.parent_id.is_(None) if parent_id is None else Page.parent_id == parent_id
    query = select(Page.title).where(children).order_by(Page.order, Page.id)
    return list(session.scalars(query))


def insert_rows(session: Any, *titles: str, order: Decimal | int = 65536) -> None:
    """Insert roots as another library would, all with the same order."""
    statement = text(
        'INSERT INTO pages (name, title, type, "order") VALUES (:name, :title, :type, :order)'
    )
    for title in titles:
        values = {"name": title.lower(), "title": title, "type": "generic", "order": order}
        session.execute(statement, values)


@contextmanager
def sent(mgr: Any, *beginnings: str) -> Iterator[list[str]]:
    """Collect the statements that begin so, each as often as it is run."""
    statements: list[str] = []

    def note(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
    ) -> None:
        if statement.startswith(beginnings or ""):
            statements.extend([statement] * (len(parameters) if many else 1))

    event.listen(mgr.engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(mgr.engine, "before_cursor_execute", note)
