"""Properties in dictionaries, as parts of statements."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from markupsafe import Markup
from sqlalchemy import Index, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, mapped_column

from onegov_orm.base import ModelBase
from onegov_orm.mixins import (
    ContentMixin,
    content_markup_property,
    content_property,
    dict_property,
    meta_markup_property,
    meta_property,
)
from tests.asynchronous import in_loop


class Base(DeclarativeBase, ModelBase):
    pass


class Town(ContentMixin, Base):
    __tablename__ = "towns"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(default="town")
    raw: Mapped[dict[str, Any] | None] = mapped_column(JSONB)

    name = meta_property(value_type=str)
    people = meta_property(default=0)
    share = meta_property(default=0.0)
    price = meta_property(value_type=Decimal)
    founded = meta_property(value_type=date)
    seen = meta_property(value_type=datetime)
    opens = meta_property(value_type=time)
    key = meta_property(value_type=uuid.UUID)
    walled = meta_property(default=False)
    tags: dict_property[list[str]] = meta_property(default=list)
    facts: dict_property[dict[str, Any] | None] = meta_property(value_type=dict)
    anything = meta_property()
    text = content_property(value_type=str)
    html = meta_markup_property()
    body = content_markup_property(default="<none>")
    odd = meta_property('it\'s 100% "odd" \\ %(x)s :y', value_type=str)
    colour = dict_property("raw", default="red")

    __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "town"}


class Village(Town):
    streets = meta_property(default=0)
    __mapper_args__ = {"polymorphic_identity": "village"}


#: The server accepts none for what depends on a setting, such as dates.
INDEXES = [Index("by_name", Town.name), Index("by_people", Town.people), Index("by_key", Town.key)]


MOMENT = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)
KEY = uuid.UUID(int=7)
VALUES: dict[str, Any] = {
    "name": "__date__@2020-01-01 it's 100% Bern",
    "people": 140_000,
    "share": 0.1,
    "price": Decimal("9.90"),
    "founded": date(1191, 5, 14),
    "seen": MOMENT,
    "opens": time(7, 30),
    "key": KEY,
    "walled": True,
    "tags": ["aare", "__str__@x"],
    "facts": {"bears": [3, date(1513, 1, 1)]},
    "anything": Decimal("1.5"),
    "text": "a long one",
    "html": Markup("<b>&amp;</b>"),
    "body": Markup("<i>"),
    "odd": "odd",
}


@pytest.fixture
def session(new_town) -> Any:
    return new_town(Base).session()


def ids(session: Any, *criteria: Any) -> list[int]:
    return list(session.scalars(select(Town.id).where(*criteria).order_by(Town.id)))


def add(session: Any, *metas: Any) -> None:
    """Add towns as they would be in the database of another application, from 1."""
    rows = [{"id": number, "meta": meta} for number, meta in enumerate(metas, 1)]
    statement = text(
        "INSERT INTO towns (id, kind, meta, content) "
        "VALUES (:id, 'town', CAST(:meta AS jsonb), '{}')"
    )
    session.execute(statement, rows)


def literally(session: Any, statement: Any) -> str:
    compiled = statement.compile(session.connection(), compile_kwargs={"literal_binds": True})
    return str(compiled).replace(":", "\\:")


def check(session: Any, name: str) -> None:
    """Filter by a property that the first of two towns has, sort, group and select it."""
    column, value = getattr(Town, name), VALUES[name]
    assert ids(session, column == value) == [1]
    assert ids(session, column.in_([value])) == [1]
    assert ids(session, column.is_distinct_from(value)) == [2]
    grouped = select(column, func.count()).where(Town.id == 1).group_by(column).order_by(column)
    found, count = session.execute(grouped).one()
    assert (found, count) == (value, 1)
    assert isinstance(found, type(value))


# -- with each driver, on each server


def test_each_type_is_right_with_each_driver(dsn, new_town):
    session = new_town(Base, dsn=dsn).session()
    session.execute(text("SET LOCAL TimeZone TO 'Pacific/Auckland'"))
    session.add_all([Town(id=1, **VALUES), Town(id=2)])
    session.flush()
    for name in VALUES:
        check(session, name)


def test_each_type_is_updated_with_each_driver(dsn, new_town):
    session = new_town(Base, dsn=dsn).session()
    session.execute(text("SET LOCAL TimeZone TO 'Pacific/Auckland'"))
    session.add_all([Town(id=1), Town(id=2)])
    session.flush()
    values = {getattr(Town, name): value for name, value in VALUES.items()}
    session.execute(update(Town).where(Town.id == 1).values(values))
    for name, value in VALUES.items():
        assert getattr(session.get(Town, 1), name) == value
        check(session, name)


@in_loop
async def test_each_type_is_right_with_asynchronous_drivers(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    async with mgr.schema("towns-bern") as session:
        session.add_all([Town(id=1), Town(id=2)])
        await session.flush()
        values = {getattr(Town, name): value for name, value in VALUES.items()}
        await session.execute(update(Town).where(Town.id == 1).values(values))
        for name in VALUES:
            await session.run_sync(check, name)


# -- what is stored


def test_dates_and_decimals_sort_as_what_they_are(session):
    prices = [Decimal(10), Decimal("9.5"), Decimal(-1), Decimal("1E+2")]
    days = [date(2021, 1, 1), date(1999, 12, 31), date(2000, 1, 1), date(1000, 1, 1)]
    for number, (price, day) in enumerate(zip(prices, days, strict=True)):
        session.add(Town(id=number, price=price, founded=day))
    assert list(session.scalars(select(Town.id).order_by(Town.price))) == [2, 1, 0, 3]
    assert list(session.scalars(select(Town.id).order_by(Town.founded.desc()))) == [0, 2, 1, 3]
    assert ids(session, Town.price.between(Decimal(9), Decimal("9.50"))) == [1]
    assert ids(session, Town.founded < date(2000, 1, 1)) == [1, 3]


def test_moments_are_compared_whatever_the_time_zone_was(session):
    zone = timezone(timedelta(hours=5, minutes=30))
    session.add(Town(id=1, seen=datetime(2024, 3, 1, 5, 29, 59, 123456, tzinfo=zone)))
    for name in ("UTC", "Asia/Kolkata", "America/St_Johns"):
        session.execute(text(f"SET LOCAL TimeZone TO '{name}'"))
        assert ids(session, Town.seen == MOMENT) == [1]
        assert ids(session, Town.seen < MOMENT + timedelta(microseconds=1)) == [1]
        assert session.scalars(select(Town.seen)).one() == MOMENT


def test_what_other_applications_stored_is_read(session):
    add(
        session,
        '{"price": 5, "key": "00000000-0000-0000-0000-000000000007", "people": 5.0}',
        '{"price": "__decimal__@5.00", "seen": "__datetime__@2024-02-29T23:59:59.123456+00:00"}',
        '{"seen": "__datetime__@2024-03-01T00:59:59.123456+01:00"}',
    )
    assert ids(session, Town.price == Decimal(5)) == [1, 2]
    assert ids(session, Town.key == KEY) == [1]
    assert ids(session, Town.people == 5) == [1]
    assert ids(session, Town.seen == MOMENT) == [2, 3]


@pytest.mark.parametrize("name", ["people", "share", "price", "founded", "seen", "opens", "key"])
@pytest.mark.parametrize(
    "value",
    ['"abc"', '""', '"__date__@2021-13"', '"__datetime__@now"', '"__uuid__@x"', "[1]", '{"a": 1}'],
)
def test_a_row_with_something_else_does_not_end_the_query(session, name, value):
    add(session, f'{{"{name}": {value}}}')
    column = getattr(Town, name)
    assert ids(session, column == VALUES[name]) == []
    assert list(session.scalars(select(column).order_by(column))) == [None]


def test_a_null_that_is_stored_is_null_and_not_the_default(session):
    add(session, '{"people": null, "tags": null, "anything": null, "body": null}', "{}")
    for column in (Town.people, Town.tags, Town.anything):
        assert session.scalars(select(column).where(Town.id == 1)).one() is None
    assert ids(session, Town.people.is_(None)) == [1]
    assert ids(session, Town.people == 0) == [2]


def test_plain_json_columns_have_properties_too(session):
    session.add_all([Town(id=1, colour="blue"), Town(id=2)])
    assert ids(session, Town.colour == "red") == [2]
    session.execute(update(Town).values({Town.colour: Town.colour + "ish"}))
    assert session.scalars(select(Town.colour).order_by(Town.id)).all() == ["blueish", "redish"]


# -- in statements


def test_lists_and_dictionaries_can_be_looked_into(session):
    session.add(Town(id=1, tags=["aare", "bear"], facts={"bears": {"old": 3}}))
    session.add(Town(id=2))
    assert ids(session, Town.tags.contains("aare")) == [1]
    assert ids(session, Town.tags.contains(["bear", "aare"])) == [1]
    assert ids(session, Town.tags == []) == [2]
    assert ids(session, Town.tags[1].as_string() == "bear") == [1]
    assert ids(session, Town.facts.has_key("bears")) == [1]
    assert ids(session, Town.facts["bears"]["old"].as_integer() == 3) == [1]


def test_texts_have_what_texts_have(session):
    session.add_all([Town(id=1, name="Bern"), Town(id=2, name="Biel"), Town(id=3)])
    assert ids(session, Town.name.like("%el")) == [2]
    assert ids(session, Town.name.startswith("B"), func.lower(Town.name) != "biel") == [1]
    assert session.scalars(select(Town.name + "!").order_by(Town.name)).first() == "Bern!"


def test_numbers_can_be_reckoned_with(session):
    session.add_all([Town(id=1, people=7), Town(id=2, people=10**30), Town(id=3)])
    assert ids(session, Town.people + 1 == 8) == [1]
    assert ids(session, Town.people / 2 == Decimal("3.5")) == [1]
    assert ids(session, Town.people // 2 == 3) == [1]
    assert ids(session, Town.people > 10**29) == [2]
    session.get(Town, 1).share = 0.5
    product = select(Town.people * Town.share).where(Town.id == 1)
    assert session.scalars(product).one() == 3.5
    total = session.scalars(select(func.sum(Town.people))).one()
    assert (total, type(total)) == (10**30 + 7, int)
    assert session.scalars(select(Town.people / 2).where(Town.id == 1)).one() == Decimal("3.5")


def test_truth_is_a_criterion(session):
    session.add_all([Town(id=1, walled=True), Town(id=2)])
    assert ids(session, Town.walled) == [1]
    assert ids(session, ~Town.walled) == [2]
    assert ids(session, Town.walled.is_(True)) == [1]


def test_aliases_have_the_properties_of_their_model(session):
    session.add_all([Town(id=1, people=1), Town(id=2, people=2)])
    other = aliased(Town)
    statement = select(Town.id, other.id).join(other, other.people == Town.people + 1)
    assert session.execute(statement).one() == (1, 2)
    assert session.scalars(select(other.people).order_by(other.people)).all() == [1, 2]


def test_derived_models_have_the_properties_of_theirs(session):
    session.add_all([Village(id=1, people=3, streets=2), Town(id=2, people=3)])
    statement = select(Village.people, Village.streets).where(Village.people == 3)
    assert session.execute(statement).one() == (3, 2)


def test_columns_are_called_as_the_properties(session):
    session.add(Town(id=1, name="Bern", people=2))
    row = session.execute(select(Town.name, Town.people, Town.tags, Town.html)).one()
    assert row._mapping == {"name": "Bern", "people": 2, "tags": [], "html": None}
    inner = select(Town.id, Town.people, Town.tags).subquery()
    assert session.scalars(select(inner.c.people).where(inner.c.people > 1)).one() == 2


def test_markup_is_selected_as_markup_and_compared_as_it_is_set(session):
    session.add(Town(id=1, html="<script>"))
    found = session.execute(select(Town.html, Town.body)).one()
    assert found == (Markup("&lt;script&gt;"), Markup("&lt;none&gt;"))
    assert all(type(each) is Markup for each in found)
    assert ids(session, Town.html == "<script>") == [1]
    assert ids(session, Town.html == Markup("<script>")) == []


def test_properties_can_be_indexed(session):
    session.add(Town(id=1, name="Bern", people=5, key=KEY))
    session.flush()
    session.execute(text("SET LOCAL enable_seqscan TO off"))
    for criterion, index in (
        (Town.name == "Bern", "by_name"),
        (Town.people > 4, "by_people"),
        (Town.key == KEY, "by_key"),
    ):
        statement = select(Town.id).where(criterion)
        plan = session.execute(text(f"EXPLAIN {literally(session, statement)}")).scalars()
        assert index in "".join(plan)


def test_a_property_is_the_same_in_statements_that_were_compiled_before(session):
    session.add_all([Town(id=1, name="a", people=1), Town(id=2, name="b", people=2)])
    for number, name in ((1, "a"), (2, "b")):
        assert ids(session, Town.name == name) == [number]
        assert ids(session, Town.people == number) == [number]
        assert ids(session, Town.odd.is_(None), Town.people == number) == [number]
