"""How an application uses bases and mixins."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeGuard, assert_type

from markupsafe import Markup
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from onegov_orm import ModelNotFound, MutableDefault
from onegov_orm.base import Base as ReadyBase
from onegov_orm.base import ModelBase, find_models
from onegov_orm.mixins import (
    ContentMixin,
    StripWhitespaceMixin,
    TimestampMixin,
    UTCPublicationMixin,
    content_markup_property,
    content_property,
    data_property,
    dict_markup_property,
    dict_property,
    dict_property_factory,
    meta_markup_property,
    meta_property,
)

extra_property = dict_property_factory("extra")


class Base(DeclarativeBase, ModelBase):
    """The application's base."""


class Page(ContentMixin, TimestampMixin, UTCPublicationMixin, StripWhitespaceMixin, Base):
    """A page."""

    __tablename__ = "pages"
    stripped_columns = (*StripWhitespaceMixin.stripped_columns, "city")

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    motto: Mapped[Markup | None]
    extra: Mapped[dict[str, Any] | None]
    data: Mapped[dict[str, Any]]

    views = meta_property(default=0)
    title = meta_property(value_type=str)
    code = meta_property("short", value_type=str)
    label = meta_property(default="", value_type=str)
    price = content_property(default=Decimal(0))
    day = content_property(default=date.today)
    anything = data_property()
    chosen: dict_property[str | None] = meta_property()
    required: dict_property[int] = dict_property("extra", default=1)
    tags: dict_property[list[str]] = meta_property(default=list)
    size = extra_property(value_type=int)
    places: dict_property[list[int]] = dict_property("extra", "p", default=list)
    lead = meta_markup_property()
    body = content_markup_property(default="")
    foot = dict_markup_property("extra")

    @title.inplace.setter
    def _set_title(self, value: str | None) -> None:
        self.meta["title"] = value

    @title.inplace.deleter
    def _delete_title(self) -> None:
        del self.meta["title"]

    @staticmethod
    def timestamp() -> datetime:
        """Return another time."""
        return datetime.now(UTC)


class Ready(ReadyBase):
    """A model of the base that is there."""

    __tablename__ = "ready"

    id: Mapped[int] = mapped_column(primary_key=True)


def read(page: Page) -> None:
    """Read attributes."""
    assert_type(page.views, int)
    assert_type(page.title, str | None)
    assert_type(page.code, str | None)
    assert_type(page.label, str)
    assert_type(page.price, Decimal)
    assert_type(page.day, date)
    assert_type(page.anything, Any)
    assert_type(page.chosen, str | None)
    assert_type(page.required, int)
    assert_type(page.tags, list[str])
    assert_type(page.size, int | None)
    assert_type(page.places, list[int])
    assert_type(page.lead, Markup | None)
    assert_type(page.body, Markup)
    assert_type(page.foot, Markup | None)
    assert_type(page.created, datetime)
    assert_type(page.modified, datetime | None)
    assert_type(page.last_change, datetime)
    assert_type(page.published, bool)
    assert_type(page.published_as_of(page.created), bool)
    assert_type(page.meta, dict[str, Any])


def write(page: Page) -> None:
    """Set and delete attributes."""
    page.views += 1
    page.title = None
    page.lead = "<escaped>"
    page.body = Markup("<b>")
    page.tags.append("a")
    page.publication_start = None
    page.force_update()
    del page.title


def query(session: Session) -> list[str | None]:
    """Use attributes in statements."""
    statement = (
        select(Page.views, Page.title)
        .where(Page.views > 3, Page.title == "a", Page.published)
        .where(Page.tags.contains("a"), Page.published_as_of(datetime.now(UTC)))
        .where(Page.day.between(date(2020, 1, 1), date(2021, 1, 1)))
        .order_by(Page.price.desc(), Page.last_change)
        .group_by(Page.views)
    )
    criterion: ColumnElement[bool] = Page.lead == "<b>"
    session.execute(update(Page).where(criterion).values({Page.views: Page.views + 1}))
    return [title for _, title in session.execute(statement)]


def is_published(model: type[Base]) -> TypeGuard[type[UTCPublicationMixin]]:
    """Tell whether a model can be published."""
    return issubclass(model, UTCPublicationMixin)


def find() -> list[str]:
    """Look for classes."""
    guarded = find_models(Base, is_published)
    assert_type(guarded, Iterator[type[UTCPublicationMixin]])
    plain = find_models(Base, lambda model: issubclass(model, ContentMixin))
    assert_type(plain, Iterator[type[Base]])
    assert_type(Page.get_polymorphic_class("a"), type[Page])
    assert_type(Page.get_polymorphic_class("a", None), type[Page] | None)
    assert_type(Page.get_polymorphic_class("a", default=Page), type[Page])
    try:
        return [each.__name__ for each in guarded]
    except ModelNotFound as error:
        return [str(identity) for identity in error.identities]
    except MutableDefault as error:
        return [str(error.default)]


def locale(page: Page, ready: Ready) -> str | None:
    """Ask an object for its manager."""
    manager = page.session_manager or ready.session_manager
    return manager.current_locale if manager else None
