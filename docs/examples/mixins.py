"""Pages with dictionaries, timestamps and a time to be public."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from sqlalchemy import select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import SessionManager
from onegov_orm.base import ModelBase, find_models
from onegov_orm.embedded import EmbeddedServer
from onegov_orm.mixins import (
    ContentMixin,
    StripWhitespaceMixin,
    TimestampMixin,
    UTCPublicationMixin,
    content_markup_property,
    dict_property,
    meta_property,
)


class Base(DeclarativeBase, ModelBase):
    pass


class Page(ContentMixin, TimestampMixin, UTCPublicationMixin, Base):
    __tablename__ = "pages"

    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]

    # Texts, numbers, dates under keys of the dictionary "meta", loaded with the page.
    title = meta_property(value_type=str)
    views = meta_property(default=0)
    tags: dict_property[list[str]] = meta_property(default=list)

    # Markup under a key of the dictionary "content", loaded when it is asked for.
    text = content_markup_property()

    __mapper_args__: Mapping[str, str] = {"polymorphic_on": "type", "polymorphic_identity": "page"}


class Event(Page):
    day = meta_property(value_type=date)
    price = meta_property(default=Decimal(0))

    __mapper_args__: Mapping[str, str] = {"polymorphic_identity": "event"}


class Person(StripWhitespaceMixin, Base):
    __tablename__ = "people"

    id: Mapped[int] = mapped_column(primary_key=True)
    first_name: Mapped[str]
    last_name: Mapped[str]


def main(dsn: str) -> None:
    mgr = SessionManager(dsn, Base)
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    with mgr.schema("towns-bern") as session:
        page = Page(id=1, title="Welcome", text="Fish & chips")
        page.tags.append("food")
        session.add(page)
        session.add(Event(id=2, title="Fair", day=date(2024, 9, 1), publication_start=tomorrow))
        session.add(Event(id=3, title="Concert", day=date(2024, 8, 1), price=Decimal("9.50")))

    with mgr.schema("towns-bern") as session:
        welcome = session.scalars(select(Page).where(Page.tags.contains("food"))).one()
        print(welcome.meta, welcome.text, welcome.modified)

        # In statements, properties are what they are in Python.
        print(session.scalars(select(Event.title).order_by(Event.day)).all())
        print(session.scalars(select(Event.title).where(Event.price < 9)).all())
        print(session.scalars(select(Page.title).where(Page.published).order_by(Page.id)).all())
        print([page.title for page in session.scalars(select(Page)) if not page.published])

        session.execute(update(Page).values({Page.views: Page.views + 1}))
        print(welcome.views, welcome.modified is not None)

    # Names lose the blanks around them; classes are found by what they are.
    print(repr(Person(first_name=" Ada ", last_name="Lovelace\n").last_name))
    print(Page.get_polymorphic_class("event").__name__)
    found = find_models(Base, lambda model: issubclass(model, UTCPublicationMixin))
    print([model.__name__ for model in found])

    mgr.dispose()


if __name__ == "__main__":
    with EmbeddedServer() as server:
        main(server.create_database("towns"))
