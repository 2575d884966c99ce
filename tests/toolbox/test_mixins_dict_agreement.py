"""Properties in dictionaries say the same in SQL as in Python, whatever is stored."""

from __future__ import annotations

import functools
import operator
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm import SessionManager
from onegov_orm.base import ModelBase
from onegov_orm.mixins import ContentMixin, meta_markup_property, meta_property
from onegov_orm.types import JSON

MISSING = object()


class Base(DeclarativeBase, ModelBase):
    pass


class Row(ContentMixin, Base):
    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
    meta: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    plain_str = meta_property(value_type=str)
    plain_int = meta_property(value_type=int)
    plain_float = meta_property(value_type=float)
    plain_bool = meta_property(value_type=bool)
    plain_decimal = meta_property(value_type=Decimal)
    plain_date = meta_property(value_type=date)
    plain_datetime = meta_property(value_type=datetime)
    plain_time = meta_property(value_type=time)
    plain_uuid = meta_property(value_type=uuid.UUID)
    plain_list = meta_property(value_type=list)
    plain_dict = meta_property(value_type=dict)
    plain_any = meta_property()
    plain_markup = meta_markup_property()

    default_str = meta_property(default="__date__@2020-01-01 100% %(x)s :y ' \\ \"")
    default_int = meta_property(default=3)
    default_float = meta_property(default=2.5)
    default_bool = meta_property(default=True)
    default_decimal = meta_property(default=Decimal("1.50"))
    default_date = meta_property(default=date(2020, 1, 1))
    default_datetime = meta_property(default=lambda: datetime(2020, 1, 1, tzinfo=UTC))
    default_uuid = meta_property(default=uuid.UUID(int=1))
    default_list = meta_property(default=list)
    default_dict = meta_property(default=lambda: {"a": [date(2020, 1, 1)]})


texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12),
    st.sampled_from(
        [
            "",
            "__date__@2020-01-01",
            "__str__@x",
            "__str__@__date__@x",
            "%(x)s",
            "5",
            "null",
            "true",
        ]
    ),
)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
#: Drivers can't read what is before the year 1, or after 9999, in the time zone of the session.
first, last = datetime(2, 1, 1), datetime(9998, 1, 1)  # noqa: DTZ001 bounds have no zone here
moments = st.datetimes(first, last, timezones=st.just(UTC) | zones)
numbers = st.floats(allow_nan=False, allow_infinity=False)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": texts,
    "int": st.integers(),
    "float": numbers,
    "bool": st.booleans(),
    "decimal": st.decimals(allow_nan=False, allow_infinity=False),
    "date": st.dates(),
    "datetime": moments,
    "time": st.times(),
    "uuid": st.uuids(),
    "list": st.lists(texts | st.dates(), max_size=3),
    "dict": st.dictionaries(texts, texts | st.decimals(allow_nan=False), max_size=2),
    "any": texts | st.dates() | st.booleans() | st.lists(texts, max_size=2) | st.uuids(),
}
ORDERED = ["str", "int", "float", "decimal", "date", "datetime", "time", "uuid"]
SCALARS = [*ORDERED, "bool"]


def properties(kind: str) -> list[str]:
    return [name for name in vars(Row) if name.partition("_")[2] == kind]


@pytest.fixture(scope="module")
def manager(shared_dsn) -> Any:
    manager = SessionManager(shared_dsn, Base)
    manager.set_current_schema("towns-agreement")
    yield manager
    manager.dispose()


@pytest.fixture
def session(manager) -> Any:
    """A session whose transaction is aborted at the end of the test."""
    session = manager.session()
    # What is written under one time zone is read under another.
    session.execute(text("SET LOCAL TimeZone TO 'Asia/Kolkata'"))
    return session


def randomly(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    limits = settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    return lambda test: limits(given(data=st.data())(test))


def fill(session: Any, kind: str, values: list[Any]) -> list[Row]:
    """Replace all rows; the last one has no dictionary at all."""
    session.execute(delete(Row))
    session.expunge_all()
    metas = [
        {} if value is MISSING else dict.fromkeys(properties(kind), value) for value in values
    ]
    rows = [{"id": number, "meta": meta} for number, meta in enumerate([*metas, None])]
    session.execute(insert(Row), rows)
    found = list(session.scalars(select(Row).order_by(Row.id)))
    assert found[-1].meta is None
    return found


def drawn(data: Any, kind: str) -> tuple[list[Any], Any]:
    """Draw the values of some rows, and one to compare with, which is often one of them."""
    rows = data.draw(st.lists(VALUES[kind] | st.none() | st.just(MISSING), max_size=5))
    present = [value for value in rows if value is not None and value is not MISSING]
    pivot = data.draw(st.sampled_from(present) | VALUES[kind] if present else VALUES[kind])
    return rows, pivot


def comparable(kind: str, name: str) -> Any:
    """Return the property; texts are compared by their characters, as Python does."""
    return getattr(Row, name).collate("C") if kind == "str" else getattr(Row, name)


@pytest.mark.parametrize("kind", VALUES)
@randomly(examples=8)
def test_comparisons_agree(session, kind, data):
    values, pivot = drawn(data, kind)
    rows = fill(session, kind, values)
    for name in properties(kind):
        column = comparable(kind, name)
        comparisons = {
            column == pivot: lambda value: value == pivot,
            column != pivot: lambda value: value is not None and value != pivot,
            column.is_distinct_from(pivot): lambda value: value != pivot,
            column.in_([pivot]): lambda value: value == pivot,
            column.is_(None): lambda value: value is None,
            column == None: lambda value: value is None,  # noqa: E711
        }
        if kind in ORDERED:
            for compare in (operator.lt, operator.le, operator.gt, operator.ge):
                comparisons[compare(column, pivot)] = functools.partial(is_so, compare, pivot)
        answers = session.execute(select(*comparisons).order_by(Row.id)).all()
        for row, answer in zip(rows, answers, strict=True):
            expected = [says(getattr(row, name)) for says in comparisons.values()]
            assert [bool(each) for each in answer] == expected


def is_so(compare: Any, pivot: Any, value: Any) -> bool:
    return value is not None and compare(value, pivot)


@pytest.mark.parametrize("kind", VALUES)
@randomly(examples=8)
def test_what_is_selected_agrees(session, kind, data):
    values, _ = drawn(data, kind)
    rows = fill(session, kind, values)
    for name in properties(kind):
        expected = [getattr(row, name) for row in rows]
        selected = list(session.scalars(select(getattr(Row, name)).order_by(Row.id)))
        assert selected == expected
        assert [type(value) for value in selected] == [type(value) for value in expected]


@pytest.mark.parametrize("kind", VALUES)
@randomly(examples=5)
def test_groups_agree(session, kind, data):
    values, _ = drawn(data, kind)
    rows = fill(session, kind, values * 2)
    for name in properties(kind):
        column = getattr(Row, name)
        expected = [getattr(row, name) for row in rows]
        groups = session.execute(select(column, func.count()).group_by(column)).all()
        assert sum(count for _, count in groups) == len(rows)
        for value, count in groups:
            assert count == len([each for each in expected if each == value])


@pytest.mark.parametrize("kind", ORDERED)
@randomly(examples=8)
def test_orders_agree(session, kind, data):
    values, _ = drawn(data, kind)
    rows = fill(session, kind, values)
    for name in properties(kind):
        column = comparable(kind, name)
        present = [row for row in rows if getattr(row, name) is not None]
        in_order = sorted(present, key=lambda row: (getattr(row, name), row.id))
        statement = select(Row.id).where(column.is_not(None)).order_by(column, Row.id)
        assert list(session.scalars(statement)) == [row.id for row in in_order]


@pytest.mark.parametrize("kind", VALUES)
@randomly(examples=5)
def test_what_an_update_sets_is_read(session, kind, data):
    values, _ = drawn(data, kind)
    rows = fill(session, kind, values)
    new = data.draw(VALUES[kind] | st.none())
    session.execute(update(Row).values({getattr(Row, name): new for name in properties(kind)}))
    for name in properties(kind):
        assert [getattr(row, name) for row in rows] == [new] * len(rows)


@pytest.mark.parametrize("kind", SCALARS)
@randomly(examples=5)
def test_expressions_are_written_as_values_are(session, kind, data):
    value = data.draw(VALUES[kind])
    rows = fill(session, kind, [value])
    for name in properties(kind):
        column = getattr(Row, name)
        session.execute(update(Row).where(Row.id == 0).values({column: column}))
        assert getattr(rows[0], name) == value
        assert type(getattr(rows[0], name)) is type(value)
        assert session.scalars(select(Row.id).where(column == value, Row.id == 0)).one() == 0


@randomly(examples=10)
def test_markup_is_compared_as_it_is_set(session, data):
    value = data.draw(texts)
    row = fill(session, "markup", [None])[0]
    row.plain_markup = value
    session.flush()
    statement = select(Row.plain_markup).where(Row.plain_markup == value)
    assert session.scalars(statement).one() == Markup.escape(value)
