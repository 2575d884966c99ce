"""`JSON`: what comes back, and what can be asked for in SQL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Text, cast, func, insert, literal, null, select, text, type_coerce, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from onegov_orm import NotSerializable
from onegov_orm.types import JSON, Serializer, default_serializers
from tests.toolbox.typed import kept, typed_fixture, with_session

EVERYTHING = {
    "date": date(2024, 7, 1),
    "time": time(12, 30),
    "moment": datetime(2024, 7, 1, 12, 30, tzinfo=UTC),
    "decimal": Decimal("10.50"),
    "uuid": UUID("12345678123456781234567812345678"),
    "plain": [1, 1.5, True, None, "text", {"ü": "ß", "": "%(x)s %s $1 :x"}],
    "deep": [[{"a": {"b": [date(2024, 7, 1)]}}]],
}


@dataclass(frozen=True)
class Money:
    """A type of an application's own."""

    amount: Decimal
    currency: str

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"

    @classmethod
    def parse(cls, text: str) -> Money:
        amount, currency = text.split()
        return cls(Decimal(amount), currency)


with_money = default_serializers.extended(
    Serializer(Money, "money", encode=str, decode=Money.parse)
)


class Base(DeclarativeBase):
    """A base of its own."""


class Page(Base):
    """Something with JSON of all kinds."""

    __tablename__ = "pages"

    id: Mapped[int] = mapped_column(primary_key=True)
    meta: Mapped[Any | None] = mapped_column(JSON)
    prices: Mapped[Any | None] = mapped_column(JSON(serializers=with_money))
    plain: Mapped[Any | None] = mapped_column(JSONB)


typed = typed_fixture(Base)


def found(session: Session, *criteria: Any) -> bool:
    return session.scalar(select(func.count()).select_from(Page).where(*criteria)) == 1


def store(session: Session, meta: Any) -> None:
    session.add(Page(meta=meta))
    session.flush()


def raw(session: Session) -> str | None:
    return session.scalar(select(cast(Page.meta, Text)))


@with_session
def test_values_come_back_as_they_were(session: Session) -> None:
    assert kept(session, Page(meta=EVERYTHING)).meta == EVERYTHING


@pytest.mark.parametrize(
    "value",
    ["text", "__date__@text", "", 5, 1.5, True, False, date(2024, 7, 1), [], {}, [[]], [None]],
    ids=str,
)
@with_session
def test_any_value_can_stand_for_itself(session: Session, value: Any) -> None:
    read = kept(session, Page(meta=value)).meta
    assert (read, isinstance(read, type(value))) == (value, True)


@with_session
def test_columns_are_read_like_attributes(session: Session) -> None:
    store(session, EVERYTHING)
    assert session.scalar(select(Page.meta)) == EVERYTHING
    assert session.scalar(select(Page.meta["deep"][0][0]["a"])) == {"b": [date(2024, 7, 1)]}


@with_session
def test_none_is_null_in_both_directions(session: Session) -> None:
    assert kept(session, Page(meta=None)).meta is None
    assert found(session, Page.meta.is_(None))
    session.execute(update(Page).values(meta={}))
    session.execute(update(Page).values(meta=None))
    assert raw(session) is None
    session.execute(update(Page).values(meta=null()))
    assert found(session, Page.meta == None)  # noqa: E711


@with_session
def test_a_null_of_json_is_none_too(session: Session) -> None:
    session.execute(text("INSERT INTO pages (meta) VALUES ('null')"))
    assert session.scalar(select(Page.meta)) is None


@with_session
def test_rows_of_older_applications_can_be_read(session: Session) -> None:
    session.execute(
        text("INSERT INTO pages (meta) VALUES (CAST(:meta AS jsonb))"),
        {
            "meta": '{"a": "__date__@2024-07-01", "b": "__datetime__@2024-07-01T12:30:00Z",'
            ' "c": "__time__@12:30:00", "d": ["__decimal__@1.50"], "e": "__date__@hello"}'
        },
    )
    assert session.scalar(select(Page.meta)) == {
        "a": date(2024, 7, 1),
        "b": datetime(2024, 7, 1, 12, 30, tzinfo=UTC),
        "c": time(12, 30),
        "d": [Decimal("1.50")],
        "e": "__date__@hello",
    }


@with_session
def test_what_a_user_typed_stays_what_it_is(session: Session) -> None:
    assert kept(session, Page(meta={"name": "__date__@2024-07-01"})).meta == {
        "name": "__date__@2024-07-01"
    }
    assert raw(session) == '{"name": "__str__@__date__@2024-07-01"}'


@with_session
def test_types_of_an_application_survive_where_they_are_known(session: Session) -> None:
    price = Money(Decimal("9.90"), "CHF")
    assert kept(session, Page(prices=[price])).prices == [price]
    assert found(session, Page.prices[0] == price)
    with pytest.raises(NotSerializable):
        store(session, [price])


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, object()]}, r"value\['a'\]\[1\]"),
        ({1: 2}, r"value\[1\]"),
        (float("inf"), "value"),
    ],
)
@with_session
def test_what_json_has_no_form_for_is_refused(session: Session, value: Any, path: str) -> None:
    with pytest.raises(NotSerializable, match=path):
        store(session, value)


@with_session
def test_columns_of_other_types_are_left_alone(session: Session) -> None:
    page = kept(session, Page(plain={"a": ["__date__@2024-07-01"]}))
    assert page.plain == {"a": ["__date__@2024-07-01"]}
    assert type(page.plain) is dict


@with_session
def test_parts_are_compared_with_values(session: Session) -> None:
    store(session, {"a": {"b": "text", "n": 5, "f": 1.5, "t": True}, "list": [1, {"x": 2}]})
    assert found(session, Page.meta["a"]["b"] == "text", Page.meta["a"]["n"] == 5)
    assert found(session, Page.meta["a"]["f"] == 1.5, Page.meta["a"]["t"] == True)  # noqa: E712
    assert found(session, Page.meta["list"] == [1, {"x": 2}], Page.meta["list"][1] == {"x": 2})
    assert found(session, Page.meta["a"]["b"] != "other", Page.meta[("a", "b")] == "text")
    assert found(session, Page.meta["a"]["b"].in_(["text", "other"]))
    assert not found(session, Page.meta["a"]["b"].not_in(["text"]))
    assert not found(session, Page.meta["a"]["n"] == "5")


@with_session
def test_parts_are_compared_with_dates_and_the_like(session: Session) -> None:
    store(session, EVERYTHING)
    for key in ("date", "time", "moment", "decimal", "uuid", "deep"):
        assert found(session, Page.meta[key] == EVERYTHING[key])
    assert found(session, Page.meta["date"].between(date(2024, 1, 1), date(2024, 12, 31)))
    assert found(session, Page.meta["date"] < date(2024, 7, 2))
    assert found(session, Page.meta["deep"][0][0]["a"]["b"].contains([date(2024, 7, 1)]))


@with_session
def test_parts_are_taken_as_text_and_numbers(session: Session) -> None:
    store(session, {"a": {"b": "text", "n": 5, "f": 1.5, "t": True}})
    a = Page.meta["a"]
    assert found(session, a["b"].as_string() == "text", a["b"].astext == "text")
    assert found(session, a["b"].as_string().like("te%"), Page.meta[("a", "b")].astext == "text")
    assert found(session, a["n"].as_integer() == 5, a["f"].as_float() > 1, a["t"].as_boolean())
    row = session.execute(select(a["b"].as_string(), a["n"].as_integer(), a["b"].astext)).one()
    assert row == ("text", 5, "text")


@with_session
def test_values_contain_others(session: Session) -> None:
    store(session, {"a": {"when": date(2024, 7, 1), "n": 5}})
    assert found(session, Page.meta.contains({"a": {"when": date(2024, 7, 1)}}))
    assert not found(session, Page.meta.contains({"a": {"when": date(2024, 7, 2)}}))
    assert found(session, Page.meta["a"].contained_by({"when": date(2024, 7, 1), "n": 5, "x": 1}))


@with_session
def test_values_have_keys(session: Session) -> None:
    store(session, {"a": 1, "__date__@x": 2})
    assert found(session, Page.meta.has_key("a"), Page.meta.has_key("__date__@x"))
    assert found(session, Page.meta.has_all(["a"]), Page.meta.has_any(["a", "b"]))
    assert not found(session, Page.meta.has_all(["a", "b"]))


@with_session
def test_values_are_found_by_a_path(session: Session) -> None:
    store(session, {"a": [{"n": 5}]})
    assert found(session, Page.meta.path_exists("$.a[*] ? (@.n > 4)"))
    assert found(session, Page.meta.path_match("$.a[0].n == 5"))


@with_session
def test_parts_order_rows(session: Session) -> None:
    for day in (2, 1, 3):
        store(session, {"date": date(2024, 7, day), "n": 10 - day})
    days = select(Page.meta["date"])
    by_date = session.scalars(days.order_by(Page.meta["date"])).all()
    assert by_date == [date(2024, 7, 1), date(2024, 7, 2), date(2024, 7, 3)]
    assert session.scalars(days.order_by(Page.meta["n"].as_integer())).all() == by_date[::-1]


@with_session
def test_a_value_can_be_put_together_in_sql(session: Session) -> None:
    store(session, {"a": 1})
    session.execute(update(Page).values(meta=Page.meta.concat({"when": date(2024, 7, 1)})))
    assert session.scalar(select(Page.meta)) == {"a": 1, "when": date(2024, 7, 1)}
    session.execute(update(Page).values(meta=Page.meta + {"b": 2}))
    assert found(session, Page.meta == {"a": 1, "b": 2, "when": date(2024, 7, 1)})


@with_session
def test_bulk_inserts_write_values(session: Session) -> None:
    rows = [{"meta": {"n": n, "when": date(2024, 7, n)}} for n in (1, 2, 3)]
    metas = session.scalars(insert(Page).returning(Page.meta), rows).all()
    assert metas == [row["meta"] for row in rows]


@with_session
def test_a_literal_is_the_same_value(session: Session) -> None:
    value = {"a": "it's 100% \\ \u00fc", "when": date(2024, 7, 1), "n": [None]}
    store(session, value)
    written = literal(value, JSON(), literal_execute=True)
    assert found(session, Page.meta == written)
    assert session.scalar(select(written)) == value
    assert session.scalar(select(type_coerce(value, JSON))) == value


@with_session
def test_a_subquery_keeps_the_type(session: Session) -> None:
    store(session, EVERYTHING)
    inner = select(Page.meta["date"].label("day")).subquery()
    assert session.scalar(select(inner.c.day).where(inner.c.day == date(2024, 7, 1))) == date(
        2024, 7, 1
    )


@with_session
def test_values_have_no_hash_to_make_rows_unique(session: Session) -> None:
    store(session, {"a": 1})
    with pytest.raises(InvalidRequestError, match=r"JSON\(\).*non-hashable"):
        session.execute(select(Page.meta)).unique().all()


@pytest.mark.parametrize(
    ("old", "new"), [(1, True), (1, 1.0), (0, False), (Decimal("1.0"), Decimal("1.00"))]
)
@with_session
def test_what_python_takes_for_equal_is_a_change_all_the_same(
    session: Session, old: Any, new: Any
) -> None:
    page = kept(session, Page(meta={"a": old}))
    assert page.meta == {"a": old}
    page.meta = {"a": new}
    session.flush()
    session.expire(page)
    assert repr(page.meta) == repr({"a": new})


@with_session
def test_an_equal_value_is_no_change(session: Session) -> None:
    page = kept(session, Page(meta={"a": [date(2024, 7, 1)], "b": 1}))
    assert page.meta
    page.meta = {"b": 1, "a": [date(2024, 7, 1)]}
    assert not session.is_modified(page)


def test_the_type_is_shown_as_it_is_made() -> None:
    assert repr(JSON()) == "JSON()"
    assert "money" in repr(JSON(with_money))
