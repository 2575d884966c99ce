"""`UTCDateTime`: the same moment under any session time zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import (
    DateTime,
    Text,
    cast,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from onegov_orm import NaiveDatetime
from onegov_orm.types import UTCDateTime
from tests.toolbox.typed import TIME_ZONES, kept, set_time_zone, typed_fixture, with_session

ZURICH = timezone(timedelta(hours=2))
NAIVE = datetime(2024, 7, 1, 12, 30)  # noqa: DTZ001
NOON = datetime(2024, 7, 1, 12, 30, 15, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Base(DeclarativeBase):
    """A base of its own."""


class Event(Base):
    """Something at a time."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime | None] = mapped_column(UTCDateTime)
    #: As databases of old have it.
    naive: Mapped[datetime | None] = mapped_column(DateTime(timezone=False))


typed = typed_fixture(Base)
in_each_time_zone = pytest.mark.parametrize("zone", TIME_ZONES)


def found(session: Session, *criteria: Any) -> bool:
    return session.scalar(select(func.count()).select_from(Event).where(*criteria)) == 1


@in_each_time_zone
@with_session
def test_a_moment_is_read_in_utc(session: Session, zone: str) -> None:
    set_time_zone(session, zone)
    event = kept(session, Event(at=NOON))
    assert (event.at, event.at.tzinfo) == (NOON, UTC)
    assert event.at.tzinfo is UTC


@in_each_time_zone
@with_session
def test_a_moment_of_another_time_zone_is_the_same_moment(session: Session, zone: str) -> None:
    set_time_zone(session, zone)
    event = kept(session, Event(at=NOON.astimezone(ZURICH)))
    assert (event.at, event.at.tzinfo) == (NOON, UTC)


@with_session
def test_the_time_zone_of_the_session_may_change_in_between(session: Session) -> None:
    set_time_zone(session, "Asia/Kathmandu")
    event = kept(session, Event(at=NOON))
    set_time_zone(session, "America/New_York")
    assert event.at == NOON


@with_session
def test_the_column_has_a_time_zone(session: Session) -> None:
    session.add(Event(at=NOON))
    session.flush()
    kind = session.scalar(select(cast(func.pg_typeof(Event.at), Text)))
    assert kind == "timestamp with time zone"


@with_session
def test_null_stays_null(session: Session) -> None:
    assert kept(session, Event(at=None)).at is None


@pytest.mark.parametrize("value", [NAIVE, NAIVE.date(), "2024-07-01", 1719837015])
@with_session
def test_what_has_no_time_zone_is_refused_when_written(session: Session, value: Any) -> None:
    session.add(Event(at=value))
    with pytest.raises(NaiveDatetime, match="give") as caught:
        session.flush()
    assert caught.value.value == value


@with_session
def test_what_has_no_time_zone_is_refused_in_comparisons(session: Session) -> None:
    for criterion in (Event.at == NAIVE, Event.at.in_([NOON, NAIVE]), Event.at > NAIVE.date()):
        with pytest.raises(NaiveDatetime):
            session.scalars(select(Event).where(criterion)).all()


@with_session
def test_a_column_without_time_zone_is_refused_when_read(session: Session) -> None:
    session.add(Event(naive=NAIVE))
    session.flush()
    with pytest.raises(NaiveDatetime, match=r"ALTER TABLE .* USING .* AT TIME ZONE 'UTC'"):
        session.scalars(select(type_coerce(Event.naive, UTCDateTime))).all()


@in_each_time_zone
@with_session
def test_comparisons_are_about_the_moment(session: Session, zone: str) -> None:
    set_time_zone(session, zone)
    session.add(Event(at=NOON))
    session.flush()
    local = NOON.astimezone(ZURICH)
    assert found(session, Event.at == local, Event.at <= local, Event.at >= local)
    assert found(session, Event.at < local + HOUR, Event.at > local - HOUR)
    assert not found(session, Event.at != local)
    assert found(session, Event.at.between(local - HOUR, NOON + HOUR))
    assert found(session, Event.at.in_([local, NOON - HOUR]))
    assert not found(session, Event.at.not_in([local]))


@with_session
def test_comparisons_with_null(session: Session) -> None:
    session.add(Event(at=None))
    session.flush()
    assert found(session, Event.at.is_(None))
    assert found(session, Event.at == null())
    assert found(session, or_(Event.at == None, Event.at > NOON))  # noqa: E711


@in_each_time_zone
@with_session
def test_the_servers_clock_stands_on_the_other_side(session: Session, zone: str) -> None:
    set_time_zone(session, zone)
    session.add(Event(at=datetime.now(UTC)))
    session.flush()
    assert found(session, Event.at.between(func.now() - HOUR, func.now() + HOUR))
    assert found(session, func.now() < Event.at + HOUR)
    assert found(session, func.clock_timestamp() - Event.at < HOUR)


@in_each_time_zone
@with_session
def test_the_servers_clock_writes_the_moment(session: Session, zone: str) -> None:
    set_time_zone(session, zone)
    session.execute(insert(Event).values(at=func.now()))
    at = session.scalar(select(Event.at))
    assert at is not None
    assert at.tzinfo is UTC
    assert abs(datetime.now(UTC) - at) < HOUR


@in_each_time_zone
@with_session
def test_times_before_and_after_are_read_in_utc(session: Session, zone: str) -> None:
    set_time_zone(session, zone)
    session.add(Event(at=NOON))
    session.flush()
    shifted = session.execute(select(Event.at + HOUR, Event.at - HOUR, HOUR + Event.at)).one()
    assert shifted == (NOON + HOUR, NOON - HOUR, NOON + HOUR)
    assert {moment.tzinfo for moment in shifted} == {UTC}


@with_session
def test_times_before_and_after_can_be_compared(session: Session) -> None:
    session.add(Event(at=NOON))
    session.flush()
    assert found(session, Event.at + HOUR == NOON + HOUR)
    assert found(session, Event.at - HOUR < Event.at)
    with pytest.raises(NaiveDatetime):
        found(session, Event.at + HOUR > NAIVE)


@with_session
def test_the_time_between_two_moments(session: Session) -> None:
    session.add(Event(at=NOON))
    session.flush()
    assert session.scalar(select(Event.at - (NOON - HOUR))) == HOUR
    assert found(session, Event.at - literal(NOON - HOUR, UTCDateTime()) == HOUR)


@in_each_time_zone
@with_session
def test_aggregates_are_read_in_utc(session: Session, zone: str) -> None:
    set_time_zone(session, zone)
    session.add_all([Event(at=NOON), Event(at=NOON + HOUR)])
    session.flush()
    first, last = session.execute(select(func.min(Event.at), func.max(Event.at))).one()
    assert (first, last) == (NOON, NOON + HOUR)
    assert (first.tzinfo, last.tzinfo) == (UTC, UTC)


@in_each_time_zone
@with_session
def test_a_literal_means_the_same_moment(session: Session, zone: str) -> None:
    set_time_zone(session, zone)
    session.add(Event(at=NOON))
    session.flush()
    local = literal(NOON.astimezone(ZURICH), UTCDateTime(), literal_execute=True)
    assert found(session, Event.at == local)
    assert session.scalar(select(local + HOUR)) == NOON + HOUR


@in_each_time_zone
@with_session
def test_an_update_in_sql_keeps_the_moment(session: Session, zone: str) -> None:
    set_time_zone(session, zone)
    event = kept(session, Event(at=NOON))
    session.execute(update(Event).values(at=Event.at + HOUR))
    session.expire(event)
    assert event.at == NOON + HOUR


@with_session
def test_the_first_and_the_last_years_can_be_written(session: Session) -> None:
    for moment in (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)):
        assert kept(session, Event(at=moment)).at == moment


@with_session
def test_a_moment_outside_of_these_years_is_refused(session: Session) -> None:
    session.add(Event(at=datetime(1, 1, 1, tzinfo=ZURICH)))
    with pytest.raises(StatementError, match="out of range"):
        session.flush()


@with_session
def test_the_time_of_a_date_is_the_applications_to_choose(session: Session) -> None:
    session.add(Event(at=NOON))
    session.flush()
    day = func.date(func.timezone("UTC", Event.at))
    assert session.scalar(select(day)) == date(2024, 7, 1)


def test_the_type_is_shown_as_it_is_made() -> None:
    assert repr(UTCDateTime()) == "UTCDateTime()"
