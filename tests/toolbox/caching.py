"""An application with cached properties, for tests and their processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ForeignKey, MetaData, Table, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from onegov_orm import SessionManager
from onegov_orm.cache import OrmCache, on_change, on_table_change, orm_cached, request_cached


class Base(DeclarativeBase):
    """A base of its own."""

    metadata = MetaData()


memberships = Table(
    "memberships",
    Base.metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("club_id", ForeignKey("clubs.id"), primary_key=True),
)


class User(Base):
    """A row that tells whose it is, with a subclass in a table of its own."""

    __tablename__ = "users"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "user"}

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    town: Mapped[str | None]
    clubs: Mapped[list[Club]] = relationship(secondary=memberships)


class Editor(User):
    """A user in two tables."""

    __tablename__ = "editors"
    __mapper_args__ = {"polymorphic_identity": "editor"}

    id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    column: Mapped[str | None]


class Club(Base):
    """What users are members of."""

    __tablename__ = "clubs"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Country(Base):
    """A table that all customers share."""

    __tablename__ = "countries"
    __table_args__ = {"schema": "shared"}

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class App:
    """Counts how often its properties are made."""

    role: str | None = None

    def __init__(self, mgr: SessionManager, region: Any, **options: Any) -> None:
        self.mgr = mgr
        self.orm_cache = OrmCache(mgr, region, **options)
        self.made = 0

    def _made(self, statement: Any) -> Sequence[Any]:
        self.made += 1
        return self.mgr.session().scalars(statement).all()

    @orm_cached(policy="on-table-change:users")
    def names(self) -> Sequence[str]:
        """The names of all users."""
        return self._made(select(User.name).order_by(User.name))

    @orm_cached(policy="on-table-change:users", role=lambda app: app.role)
    def names_for_role(self) -> Sequence[str]:
        """The names, and who is told."""
        return [*self._made(select(User.name).order_by(User.name)), str(self.role)]

    @orm_cached(policy=on_change(User, when=lambda user: user.name.startswith("A")))
    def names_with_a(self) -> Sequence[str]:
        """The names that begin with an A."""
        return self._made(select(User.name).where(User.name.startswith("A")))

    @orm_cached(policy=on_table_change("memberships", Editor))
    def members(self) -> int:
        """How many memberships there are."""
        return len(self._made(select(memberships.c.user_id)))

    @orm_cached(policy=on_table_change("countries"))
    def countries(self) -> Sequence[str]:
        """The names of the countries."""
        return self._made(select(Country.name))

    @request_cached
    def users(self) -> Sequence[User]:
        """The users themselves."""
        return self._made(select(User).order_by(User.name))


def add(app: App, *names: str) -> None:
    """Add users in a block of its own, and commit."""
    with app.mgr.schema(str(app.mgr.current_schema)) as session:
        session.add_all([User(name=name, town=app.mgr.current_schema) for name in names])


def names(app: App) -> list[str]:
    """Return the cached names in a block of its own."""
    with app.mgr.schema(str(app.mgr.current_schema)):
        return list(app.names)
