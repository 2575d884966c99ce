"""One application that uses the whole toolbox at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, assert_type
from uuid import UUID, uuid4

from markupsafe import Markup
from sqlalchemy import ColumnElement, ForeignKey, Integer, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from onegov_orm import SessionManager
from onegov_orm.abstract import (
    AdjacencyListCollection,
    AdjacencyListMixin,
    Associable,
    associated,
)
from onegov_orm.aggregates import aggregated
from onegov_orm.base import ModelBase
from onegov_orm.cache import OrmCache, memory_region, on_change, orm_cached, request_cached
from onegov_orm.func import unaccent
from onegov_orm.mixins import (
    ContentMixin,
    StripWhitespaceMixin,
    TimestampMixin,
    UTCPublicationMixin,
    content_markup_property,
    meta_property,
)
from onegov_orm.observer import observes
from onegov_orm.sql import as_selectable
from onegov_orm.translation import translation_hybrid
from onegov_orm.types import HSTORE, LowercaseText


class Base(ModelBase, DeclarativeBase):
    """A base of the application's own."""


class File(Base, Associable):
    """What can be attached to anything."""

    __tablename__ = "files"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str]


class AssociatedFiles:
    """Gives a model files of its own."""

    files = associated(File, "files", "one-to-many")


class Page(
    AssociatedFiles, ContentMixin, TimestampMixin, UTCPublicationMixin, AdjacencyListMixin, Base
):
    """A page in a tree, with all that there is."""

    __tablename__ = "pages"

    slug_of_day: Mapped[str | None]
    labels: Mapped[dict[str, str]] = mapped_column(HSTORE, default=dict)
    label = translation_hybrid(labels)
    day: Mapped[date | None]
    keywords = meta_property(default=list[str])
    priority = meta_property(default=0)
    text = content_markup_property()
    comments: Mapped[list[Comment]] = relationship(
        back_populates="page", cascade="all, delete-orphan"
    )

    if TYPE_CHECKING:
        parent: Mapped[Page | None]
        children: Mapped[list[Page]]

    @aggregated("comments", mapped_column(Integer, default=0))
    def comment_count(self) -> ColumnElement[int]:
        """Count the comments."""
        return func.count()

    @observes("day")
    def note_day(self, day: date | None) -> None:
        """Follow the day."""
        self.slug_of_day = day.isoformat() if day else None


class Pages(AdjacencyListCollection[Page]):
    """The tree."""

    __listclass__ = Page


class Comment(StripWhitespaceMixin, Base):
    """Somebody's word on a page."""

    __tablename__ = "comments"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    page_id: Mapped[int] = mapped_column(ForeignKey("pages.id"))
    first_name: Mapped[str]
    email: Mapped[str] = mapped_column(LowercaseText)
    written: Mapped[datetime]
    page: Mapped[Page] = relationship(back_populates="comments")


class App:
    """Caches what it shows on each page."""

    def __init__(self, mgr: SessionManager) -> None:
        self.mgr = mgr
        self.orm_cache = OrmCache(mgr, memory_region())

    @orm_cached("on-table-change:pages,comments")
    def titles(self) -> Sequence[str]:
        """The titles of what is published, as the tree has them."""
        statement = select(Page.title).where(Page.published).order_by(Page.order, Page.id)
        return self.mgr.session().scalars(statement).all()

    @orm_cached(on_change(Page, when=lambda page: page.priority > 1), role=lambda app: 1)
    def urgent(self) -> int:
        """How many pages are urgent."""
        query = select(func.count()).select_from(Page).where(Page.priority > 1)
        return self.mgr.session().scalars(query).one()

    @request_cached
    def pages(self) -> list[Page]:
        """The pages themselves."""
        return Pages(self.mgr.session()).roots


def use(app: App, page: Page, session: Session) -> None:
    """Read all of it, as a type checker sees it."""
    assert_type(app.titles, Sequence[str])
    assert_type(app.urgent, int)
    assert_type(app.pages, list[Page])
    assert_type(page.keywords, list[str])
    assert_type(page.priority, int)
    assert_type(page.comment_count, int)
    assert_type(page.files, list[File])
    page.text = "a < b"
    page.label = "Hallo"
    text: Markup | None = page.text
    label: str | None = page.label
    print(text, label, page.published_as_of(page.created), page.session_manager)
    found = select(Page).where(
        unaccent(Page.title).ilike("%u%"), Page.priority > 0, Page.label == "Hallo"
    )
    pages: Sequence[Page] = session.scalars(found.order_by(Page.last_change)).all()
    print(pages)


def count_of(session: Session) -> dict[str, Any]:
    """Read raw SQL."""
    counts = as_selectable("SELECT name, count(*) AS number -- Integer\n FROM files GROUP BY name")
    return {row.name: row.number for row in session.execute(select(counts))}
