"""Models for tests: each row carries the name of its customer."""

from __future__ import annotations

import enum
from typing import Any

from sqlalchemy import Enum, ForeignKey, Index, MetaData
from sqlalchemy.dialects.postgresql import HSTORE, JSONB
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """A base of its own, so that no other test's models get in the way."""

    metadata = MetaData()


class Color(enum.Enum):
    """An enum of the server's."""

    RED = "red"
    GREEN = "green"


class Document(Base):
    """A row that tells whose it is."""

    __tablename__ = "documents"
    __table_args__ = (Index("ix_documents_owner", "owner"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str]
    title: Mapped[str | None]
    color: Mapped[Color | None] = mapped_column(Enum(Color, name="color"))
    content: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    tags: Mapped[dict[str, str] | None] = mapped_column(MutableDict.as_mutable(HSTORE))
    pages: Mapped[list[Page]] = relationship(
        back_populates="document", cascade="all, delete-orphan"
    )


class Page(Base):
    """A part of a document."""

    __tablename__ = "pages"

    id: Mapped[int] = mapped_column(primary_key=True)
    document_id: Mapped[int] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"))
    text: Mapped[str]
    document: Mapped[Document] = relationship(back_populates="pages")


class Party(Base):
    """The root of classes that live in joined tables."""

    __tablename__ = "parties"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "party"}

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]


class Person(Party):
    """A party in two tables."""

    __tablename__ = "persons"
    __mapper_args__ = {"polymorphic_identity": "person"}

    id: Mapped[int] = mapped_column(ForeignKey("parties.id", ondelete="CASCADE"), primary_key=True)
    email: Mapped[str | None]


class Item(Base):
    """The root of classes that share one table."""

    __tablename__ = "items"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "item"}

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]


class SpecialItem(Item):
    """An item with its own class."""

    __mapper_args__ = {"polymorphic_identity": "special"}

    extra: Mapped[str | None]
