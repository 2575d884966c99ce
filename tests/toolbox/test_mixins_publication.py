"""What is public, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, insert, not_, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from onegov_orm import NaiveDatetime
from onegov_orm.base import ModelBase
from onegov_orm.mixins import UTCPublicationMixin

NOON = datetime(2024, 3, 31, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
ZONES = ["UTC", "Europe/Zurich", "Asia/Kolkata", "America/St_Johns", "Pacific/Auckland"]


class Base(DeclarativeBase, ModelBase):
    pass


class Page(UTCPublicationMixin, Base):
    __tablename__ = "pages"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def session(new_town) -> Any:
    return new_town(Base).session()


def ids(session: Any, criterion: Any) -> list[int]:
    return list(session.scalars(select(Page.id).where(criterion).order_by(Page.id)))


def add(session: Any, *periods: tuple[datetime | None, datetime | None]) -> list[Page]:
    """Add pages that are public from one moment to another, numbered from 0."""
    session.add_all(
        [
            Page(id=number, publication_start=start, publication_end=end)
            for number, (start, end) in enumerate(periods)
        ]
    )
    session.flush()
    return list(session.scalars(select(Page).order_by(Page.id)))


def test_what_has_no_limits_is_public(session):
    (page,) = add(session, (None, None))
    assert (page.publication_started, page.publication_ended, page.published) == (
        True,
        False,
        True,
    )
    selected = select(Page.publication_started, Page.publication_ended, Page.published)
    assert session.execute(selected).one() == (True, False, True)


def test_a_page_that_is_not_stored_is_public():
    assert Page().published


@pytest.mark.parametrize("zone", ZONES)
def test_what_is_public_now_is_so_in_any_time_zone(session, zone):
    session.execute(text(f"SET LOCAL TimeZone TO '{zone}'"))
    now, hour = datetime.now(UTC), timedelta(hours=1)
    pages = add(
        session,
        (None, None),
        (now - hour, None),
        (now + hour, None),
        (None, now - hour),
        (None, now + hour),
        (now - hour, now + hour),
        (now + hour, now - hour),
    )
    for name, expected in (
        ("publication_started", [0, 1, 3, 4, 5]),
        ("publication_ended", [3, 6]),
        ("published", [0, 1, 4, 5]),
    ):
        assert [page.id for page in pages if getattr(page, name)] == expected
        assert ids(session, getattr(Page, name)) == expected
        others = [page.id for page in pages if page.id not in expected]
        assert ids(session, not_(getattr(Page, name))) == others


def test_both_limits_belong_to_the_publication(session):
    (page,) = add(session, (NOON, NOON))
    for moment, is_public in ((NOON - MICROSECOND, 0), (NOON, 1), (NOON + MICROSECOND, 0)):
        assert page.published_as_of(moment) == bool(is_public)
        assert len(ids(session, Page.published_as_of(moment))) == is_public


@pytest.mark.parametrize("zone", ZONES)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_python_and_sql_agree(session, zone, data):
    offsets = st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours)))
    near = st.integers(-3, 3).map(lambda number: NOON + number * MICROSECOND)
    moments = st.builds(datetime.astimezone, near, offsets)
    periods = data.draw(st.lists(st.tuples(st.none() | moments, st.none() | moments), max_size=8))
    moment = data.draw(moments)
    session.execute(text(f"SET LOCAL TimeZone TO '{zone}'"))
    session.execute(delete(Page))
    session.expunge_all()
    pages = add(session, *periods)
    answers = session.scalars(select(Page.published_as_of(moment)).order_by(Page.id)).all()
    assert answers == [page.published_as_of(moment) for page in pages]


@pytest.mark.parametrize("target", [Page(), Page], ids=["object", "model"])
def test_a_moment_without_a_time_zone_is_refused(target):
    with pytest.raises(NaiveDatetime):
        target.published_as_of(datetime(2024, 3, 31, 12))  # noqa: DTZ001 that is the point


def test_the_present_is_that_of_the_statement_not_of_the_transaction(session):
    session.execute(select(1))
    later = datetime.now(UTC)
    session.execute(insert(Page), [{"id": 0, "publication_start": later}])
    assert session.scalars(select(func.now())).one() < later
    assert ids(session, Page.published) == [0]


def test_aliases_are_public_too(session):
    add(session, (NOON, None), (None, NOON))
    other = aliased(Page)
    assert session.scalars(select(other.id).where(other.published)).all() == [0]
    assert session.scalars(select(other.id).where(other.published_as_of(NOON - MICROSECOND))).all()


def test_several_may_be_counted_by_what_they_are(session):
    add(session, (NOON, None), (None, NOON), (None, None))
    statement = select(Page.published, func.count()).group_by(Page.published)
    assert dict(session.execute(statement).all()) == {True: 2, False: 1}
