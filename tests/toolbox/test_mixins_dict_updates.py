"""Properties in dictionaries, set by UPDATE statements."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from markupsafe import Markup
from sqlalchemy import String, func, insert, literal, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from onegov_orm.base import ModelBase
from onegov_orm.mixins import (
    ContentMixin,
    TimestampMixin,
    content_property,
    dict_property,
    meta_markup_property,
    meta_property,
)
from onegov_orm.types import JSON


class Base(DeclarativeBase, ModelBase):
    pass


class Town(ContentMixin, TimestampMixin, Base):
    __tablename__ = "towns"
    id: Mapped[int] = mapped_column(primary_key=True)
    nick: Mapped[str | None]
    meta: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    name = meta_property(value_type=str)
    people = meta_property(default=0)
    price = meta_property(value_type=Decimal)
    founded = meta_property(value_type=date)
    seen = meta_property(value_type=datetime)
    key = meta_property(value_type=uuid.UUID)
    tags: dict_property[list[str]] = meta_property(default=list)
    anything = meta_property()
    text = content_property(value_type=str)
    html = meta_markup_property()
    upper = meta_property(value_type=str)

    @upper.inplace.update_expression
    @classmethod
    def _update_upper(cls, value: str) -> list[tuple[Any, Any]]:
        return [(cls.meta, {"upper": value.upper()}), (cls.nick, value)]


@pytest.fixture
def session(new_town) -> Any:
    session = new_town(Base).session()
    session.add_all([Town(id=1, meta={"name": "Bern", "other": [1]}), Town(id=2)])
    session.flush()
    session.expunge_all()
    return session


def metas(session: Any) -> list[Any]:
    return list(session.scalars(select(Town.meta).order_by(Town.id)))


def test_one_property_is_set_and_the_rest_stays(session):
    session.execute(update(Town).where(Town.id == 1).values({Town.people: 5}))
    assert metas(session) == [{"name": "Bern", "other": [1], "people": 5}, None]


def test_a_property_is_set_where_there_is_no_dictionary(session):
    session.execute(update(Town).where(Town.id == 2).values({Town.people: 5}))
    assert metas(session)[1] == {"people": 5}


def test_several_properties_of_a_dictionary_are_set_at_once(session):
    values = {Town.people: 5, Town.name: "Berne", Town.founded: date(1191, 1, 1), Town.text: "a"}
    session.execute(update(Town).values(values))
    expected = {"people": 5, "name": "Berne", "founded": date(1191, 1, 1)}
    assert metas(session) == [{**expected, "other": [1]}, expected]
    assert session.scalars(select(Town.text).order_by(Town.id)).all() == ["a", "a"]


def test_properties_and_columns_are_set_at_once(session):
    session.execute(update(Town).values({Town.people: 5, Town.nick: "Mutzenstadt"}))
    statement = select(Town.people, Town.nick, Town.modified.is_not(None))
    assert session.execute(statement).all() == [(5, "Mutzenstadt", True)] * 2


def test_properties_are_set_by_name(session):
    session.execute(update(Town).values(people=5))
    session.execute(update(Town).values({"name": "Thun"}))
    assert metas(session)[1] == {"people": 5, "name": "Thun"}


def test_none_is_set_as_a_null(session):
    session.execute(update(Town).values({Town.people: None}))
    assert [meta["people"] for meta in metas(session)] == [None, None]
    assert session.get(Town, 2).people is None


@pytest.mark.parametrize("synchronize_session", ["auto", "evaluate", "fetch"])
def test_objects_of_the_session_have_what_was_set(session, synchronize_session):
    town = session.get(Town, 1)
    assert town.people == 0
    session.execute(
        update(Town).where(Town.id == 1).values({Town.people: 5}),
        execution_options={"synchronize_session": synchronize_session},
    )
    assert town.people == 5
    town.people += 1
    session.flush()
    assert metas(session)[0] == {"name": "Bern", "other": [1], "people": 6}


def test_rows_are_found_by_properties(session):
    town = session.get(Town, 1)
    session.execute(update(Town).where(Town.name == "Bern").values({Town.people: 5}))
    assert town.people == 5
    assert metas(session)[1] is None


def test_expressions_are_set(session):
    session.execute(
        update(Town).values(
            {
                Town.people: Town.people + 2,
                Town.name: func.coalesce(Town.name, "nobody") + "!",
                Town.price: literal(Decimal("1.50")) * 2,
                Town.founded: func.make_date(1191, 5, 14),
                Town.key: func.gen_random_uuid(),
                Town.tags: func.to_jsonb(func.string_to_array("a,b", ",")),
            }
        )
    )
    town = session.get(Town, 2)
    assert (town.people, town.name, town.price) == (2, "nobody!", Decimal("3.00"))
    assert town.founded == date(1191, 5, 14)
    assert town.tags == ["a", "b"]
    assert isinstance(town.key, uuid.UUID)
    assert session.scalars(select(Town.id).where(Town.key == town.key)).one() == 2


def test_moments_of_the_server_are_set_in_utc(session):
    session.execute(text("SET LOCAL TimeZone TO 'Asia/Kolkata'"))
    session.execute(text("SET LOCAL DateStyle TO 'German'"))
    moment = func.make_timestamptz(2024, 3, 1, 5, 29, 59.5)
    session.execute(
        update(Town).values({Town.seen: moment, Town.founded: func.date("1191-05-14")})
    )
    session.execute(text("SET LOCAL DateStyle TO 'ISO'"))
    town = session.get(Town, 1)
    assert town.seen == datetime(2024, 2, 29, 23, 59, 59, 500_000, tzinfo=UTC)
    assert town.founded == date(1191, 5, 14)


def test_texts_that_look_like_something_else_stay_texts(session):
    for value in ("__date__@2020-01-01", "__str__@__date__@x", "__x"):
        session.execute(update(Town).values({Town.name: value}))
        assert session.get(Town, 1).name == value
        session.execute(update(Town).values({Town.name: Town.name + ""}))
        assert session.get(Town, 1).name == value
        session.execute(update(Town).values({Town.name: literal(value, String)}))
        assert session.get(Town, 1).name == value


def test_an_untyped_property_takes_the_type_of_the_expression(session):
    session.execute(update(Town).values({Town.anything: literal(date(2020, 1, 1))}))
    assert session.get(Town, 1).anything == date(2020, 1, 1)
    session.execute(update(Town).values({Town.anything: Town.meta["other"]}))
    assert session.get(Town, 1).anything == [1]


def test_markup_is_escaped_whatever_it_comes_from(session):
    session.execute(update(Town).values({Town.html: "<b>"}))
    assert session.get(Town, 1).html == Markup("&lt;b&gt;")
    session.execute(update(Town).values({Town.html: Markup("<b>")}))
    assert session.get(Town, 1).html == Markup("<b>")
    session.execute(update(Town).values({Town.html: literal("""<a href='x' title="&">""")}))
    assert session.get(Town, 1).html == Markup.escape("""<a href='x' title="&">""")
    session.execute(update(Town).values({Town.html: Town.html}))
    assert session.get(Town, 1).html == Markup.escape("""<a href='x' title="&">""")
    session.execute(update(Town).values({Town.html: None}))
    assert session.get(Town, 1).html is None


def test_a_model_may_have_its_own_way_of_setting(session):
    session.execute(update(Town).values({Town.upper: "abc"}))
    statement = select(Town.upper, Town.nick)
    assert session.execute(statement).all() == [("ABC", "abc")] * 2


def test_an_insert_sets_properties(session):
    session.execute(insert(Town).values({Town.id: 3, Town.people: 5, Town.name: "Thun"}))
    assert session.get(Town, 3).meta == {"people": 5, "name": "Thun"}


def test_subscribers_hear_of_the_objects(new_town):
    manager = new_town(Base)
    with manager.schema(manager.current_schema) as session:
        session.add(Town(id=1))
    heard = []
    listener = manager.on_update.connect(lambda schema, obj: heard.append(obj.people))
    with manager.schema(manager.current_schema) as session:
        session.execute(update(Town).values({Town.people: 5}))
    assert heard == [5]
    del listener
