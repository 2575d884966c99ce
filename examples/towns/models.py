"""What a town stores: its streets, the directory of its businesses and clubs, its rooms.

Nothing here knows about schemas: the models are what they would be for a single customer.
Each row repeats the name of its town, which a real application has no need for. The demo
counts with it, in the end, that no row went astray.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, ForeignKey, MetaData, Text, UniqueConstraint
from sqlalchemy.dialects.postgresql import (
    ARRAY,
    HSTORE,
    JSONB,
    TSTZRANGE,
    ExcludeConstraint,
    Range,
)
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

#: Every constraint has a name, so that a migration can speak of it.
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """The base of all models: text is ``TEXT``, and each row has an id and its town."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {str: Text}

    id: Mapped[int] = mapped_column(primary_key=True, sort_order=-2)
    town: Mapped[str] = mapped_column(sort_order=-1)


class Searchable:
    """What the search index holds.

    The index reads the text after the commit, from objects that no session has any more:
    the text is made of the object's own columns.
    """

    @property
    def search_text(self) -> str:
        """What the object is found by."""
        raise NotImplementedError


class Category(Base):
    """A heading of the directory; every town starts with the same ones."""

    __tablename__ = "categories"
    __table_args__ = (UniqueConstraint("slug"),)

    slug: Mapped[str]
    title: Mapped[str]


class Street(Base):
    """A street of the town."""

    __tablename__ = "streets"
    __table_args__ = (UniqueConstraint("name", "postcode"),)

    name: Mapped[str]
    postcode: Mapped[str]
    locality: Mapped[str]


class Entry(Searchable, Base):
    """A business or a club, as it stands in the directory."""

    __tablename__ = "entries"
    __table_args__ = (UniqueConstraint("name", "street_id", "house_number"),)

    name: Mapped[str]
    description: Mapped[str]
    category_id: Mapped[int] = mapped_column(ForeignKey(Category.id), index=True)
    street_id: Mapped[int] = mapped_column(ForeignKey(Street.id), index=True)
    house_number: Mapped[str]
    founded: Mapped[int | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))
    contact: Mapped[dict[str, str | None]] = mapped_column(MutableDict.as_mutable(HSTORE))
    opening_hours: Mapped[dict[str, Any]] = mapped_column(JSONB)

    category: Mapped[Category] = relationship()
    street: Mapped[Street] = relationship()
    bookings: Mapped[list[Booking]] = relationship(
        back_populates="entry", cascade="all, delete-orphan", order_by="Booking.during"
    )

    @property
    def search_text(self) -> str:
        """What the directory says about the entry, its address left out."""
        return " ".join([self.name, self.description, *self.tags])


class Booking(Searchable, Base):
    """A room of the town, taken for a while; the database refuses to give it twice."""

    __tablename__ = "bookings"
    __table_args__ = (
        ExcludeConstraint(
            ("room", "="), ("during", "&&"), using="gist", name="ex_bookings_room_during"
        ),
        CheckConstraint("NOT isempty(during)", name="during_not_empty"),
    )

    room: Mapped[str]
    title: Mapped[str]
    during: Mapped[Range[datetime]] = mapped_column(TSTZRANGE)
    entry_id: Mapped[int] = mapped_column(ForeignKey(Entry.id, ondelete="CASCADE"), index=True)

    entry: Mapped[Entry] = relationship(back_populates="bookings")

    @property
    def search_text(self) -> str:
        """What it is about, and where."""
        return f"{self.title} {self.room}"
