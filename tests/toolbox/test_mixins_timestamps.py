"""When rows were made and changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import ForeignKey, insert, select, update
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    aliased,
    mapped_column,
    relationship,
)

from onegov_orm.base import ModelBase
from onegov_orm.mixins import ContentMixin, TimestampMixin
from onegov_orm.types import UTCDateTime

MORNING = datetime(2024, 5, 1, 8, tzinfo=UTC)


class Base(DeclarativeBase, ModelBase):
    pass


class Town(ContentMixin, TimestampMixin, Base):
    __tablename__ = "towns"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="town")
    name: Mapped[str | None]
    streets: Mapped[list[Street]] = relationship()
    mayor: Mapped[Mayor | None] = relationship(back_populates="town")
    __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "town"}


class City(Town):
    """Has a table of its own beside that of towns."""

    __tablename__ = "cities"
    id: Mapped[int] = mapped_column(ForeignKey(Town.id), primary_key=True)
    trams: Mapped[int] = mapped_column(default=0)
    __mapper_args__ = {"polymorphic_identity": "city"}


class OldTown(Town):
    """Lives in another time, in the same table."""

    __mapper_args__ = {"polymorphic_identity": "old"}

    @staticmethod
    def timestamp() -> datetime:
        return MORNING


class Street(Base):
    __tablename__ = "streets"
    id: Mapped[int] = mapped_column(primary_key=True)
    town_id: Mapped[int | None] = mapped_column(ForeignKey(Town.id))


class Mayor(Base):
    __tablename__ = "mayors"
    id: Mapped[int] = mapped_column(primary_key=True)
    town_id: Mapped[int | None] = mapped_column(ForeignKey(Town.id))
    town: Mapped[Town | None] = relationship(back_populates="mayor")


class Clocked(TimestampMixin, Base):
    __tablename__ = "clocked"
    id: Mapped[int] = mapped_column(primary_key=True)
    clock = MORNING

    @classmethod
    def timestamp(cls) -> datetime:
        return cls.clock


@pytest.fixture
def session(new_town) -> Any:
    return new_town(Base).session()


def is_now(moment: datetime) -> bool:
    return moment.tzinfo is UTC and abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


def test_an_inserted_row_tells_when(session):
    town = Town(id=1)
    session.add(town)
    session.flush()
    assert is_now(town.created)
    assert town.modified is None
    session.expire_all()
    assert is_now(town.created)


def test_an_updated_row_tells_when(session):
    town = Town(id=1)
    session.add(town)
    session.flush()
    created = town.created
    town.name = "Bern"
    session.flush()
    assert is_now(town.modified)
    first = town.modified
    town.name = "Berne"
    session.flush()
    assert town.modified > first
    assert town.created == created


def test_each_row_was_made_at_some_time():
    assert not Town.__table__.c.created.nullable
    assert Town.__table__.c.modified.nullable
    assert isinstance(Town.__table__.c.modified.type, UTCDateTime)


def test_what_changes_in_the_table_of_a_derived_class_counts(session):
    city = City(id=1)
    session.add(city)
    session.flush()
    city.trams = 5
    session.flush()
    assert is_now(city.modified)
    assert session.scalars(select(Town.modified)).one() == city.modified


def test_what_changes_inside_a_dictionary_counts(session):
    town = Town(id=1)
    session.add(town)
    session.flush()
    town.meta["a"] = 1
    session.flush()
    assert is_now(town.modified)


def test_what_does_not_change_does_not_count(session):
    town = Town(id=1, name="Bern")
    session.add(town)
    session.flush()
    town.name = "Biel"
    town.name = "Bern"
    town.streets.append(Street(id=1))
    town.mayor = Mayor(id=1)
    session.flush()
    assert town.modified is None
    assert session.scalars(select(Town.modified)).one() is None


def test_times_that_are_given_are_kept(session):
    town = Town(id=1, created=MORNING, modified=MORNING)
    session.add(town)
    session.flush()
    town.name = "Bern"
    town.modified = MORNING + timedelta(hours=1)
    session.flush()
    session.expire_all()
    assert (town.created, town.modified) == (MORNING, MORNING + timedelta(hours=1))


def test_an_update_can_be_forced(session):
    town = Town(id=1)
    session.add(town)
    session.flush()
    town.force_update()
    assert session.is_modified(town)
    session.flush()
    session.expire_all()
    assert is_now(town.modified)


def test_bulk_statements_tell_the_time_too(session):
    session.execute(insert(Town), [{"id": 1}, {"id": 2}])
    assert all(map(is_now, session.scalars(select(Town.created))))
    session.execute(update(Town).where(Town.id == 2).values(name="Bern"))
    assert session.scalars(select(Town.id).where(Town.modified.is_not(None))).all() == [2]
    session.execute(update(Town), [{"id": 1, "name": "Thun"}])
    assert is_now(session.get(Town, 1).modified)
    session.bulk_save_objects([Town(id=3)])
    assert is_now(session.get(Town, 3).created)


def test_the_time_can_be_another_one(session):
    session.add(Clocked(id=1))
    session.flush()
    clocked = session.scalars(select(Clocked)).one()
    assert clocked.created == MORNING
    clocked.force_update()
    session.flush()
    assert clocked.modified == MORNING


def test_the_time_can_be_another_one_in_a_derived_class(session):
    town = OldTown(id=1)
    session.add(town)
    session.flush()
    town.name = "Bern"
    session.flush()
    session.expire_all()
    assert (town.created, town.modified) == (MORNING, MORNING)


def test_the_last_change_is_that_of_the_row_or_its_making(session):
    session.add(Town(id=1, created=MORNING))
    changed = MORNING + timedelta(days=1)
    session.add(Town(id=2, created=MORNING, modified=changed))
    session.flush()
    assert [session.get(Town, number).last_change for number in (1, 2)] == [MORNING, changed]
    other = aliased(Town)
    assert session.scalars(select(Town.last_change).order_by(Town.last_change)).all() == [
        MORNING,
        changed,
    ]
    assert session.scalars(select(other.id).where(other.last_change > MORNING)).all() == [2]


def test_bases_of_others_have_the_types_too():
    class Foreign(DeclarativeBase):
        pass

    class Place(TimestampMixin, ContentMixin, Foreign):
        __tablename__ = "places"
        id: Mapped[int] = mapped_column(primary_key=True)

    assert isinstance(Place.__table__.c.created.type, UTCDateTime)
