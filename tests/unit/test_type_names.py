"""Types as comments write them, and what is no type."""

from __future__ import annotations

import enum
from contextlib import suppress

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql

import onegov_orm.types
from onegov_orm._selecting.type_names import UnreadableType, known_types, type_from
from tests.models import Color

HERE = "tests.models"


def test_a_name_is_a_type():
    assert type(type_from("Text")) is sa.Text
    assert type(type_from("INTEGER")) is postgresql.INTEGER
    assert type(type_from("JSONB")) is postgresql.JSONB
    assert type(type_from("TSTZRANGE")) is postgresql.TSTZRANGE


@pytest.mark.parametrize(
    "name", ["UTCDateTime", "JSON", "HSTORE", "LowercaseText", "MarkupText", "UUID"]
)
def test_the_librarys_own_types_come_first(name: str) -> None:
    assert type(type_from(name)) is getattr(onegov_orm.types, name)


def test_types_that_know_postgresql_come_before_others():
    assert type(type_from("ARRAY(Text)")) is postgresql.ARRAY


def test_a_type_may_have_arguments():
    numeric = type_from("Numeric(10, 2)")
    assert isinstance(numeric, sa.Numeric)
    assert (numeric.precision, numeric.scale) == (10, 2)
    text = type_from("String(20, collation='C')")
    assert isinstance(text, sa.String)
    assert (text.length, text.collation) == (20, "C")
    time = type_from("DateTime(timezone=True)")
    assert isinstance(time, sa.DateTime)
    assert time.timezone


@pytest.mark.parametrize(
    ("text", "dimensions"),
    [
        ("ARRAY(Integer)", None),
        ("ARRAY(Integer, dimensions=1)", 1),
        ("ARRAY(Integer, dimensions=2)", 2),
        ("ARRAY(ARRAY(Integer))", 2),
        ("ARRAY(ARRAY(ARRAY(Integer)))", 3),
        ("ARRAY(ARRAY(Integer, dimensions=2))", 3),
    ],
)
def test_arrays_of_arrays_have_dimensions(text: str, dimensions: int | None) -> None:
    array = type_from(text)
    assert isinstance(array, sa.ARRAY)
    assert isinstance(array.item_type, sa.Integer)
    assert array.dimensions == dimensions


def test_a_type_in_a_type_keeps_its_arguments():
    array = type_from("ARRAY(Numeric(10, 2))")
    assert isinstance(array, sa.ARRAY)
    assert isinstance(array.item_type, sa.Numeric)
    assert array.item_type.scale == 2


def test_the_labels_of_an_enum_are_words():
    found = type_from("Enum(red, 'dark red', green, name=color)")
    assert isinstance(found, sa.Enum)
    assert (found.enums, found.name) == (["red", "dark red", "green"], "color")
    assert found.native_enum


def test_an_enum_without_a_name_is_a_text():
    found = type_from("Enum(red, green)")
    assert isinstance(found, sa.Enum)
    assert not found.native_enum


@pytest.mark.parametrize(
    "text", [f"{HERE}.Color", f"Enum({HERE}.Color)", f"Enum({HERE}.Color, name=color)"]
)
def test_an_enum_class_is_named_with_its_module(text: str) -> None:
    found = type_from(text)
    assert isinstance(found, sa.Enum)
    assert (found.enum_class, found.name, found.native_enum) == (Color, "color", True)


class Money(sa.types.TypeDecorator[int]):
    """A type of an application's."""

    impl = sa.Integer
    cache_ok = True

    def __init__(self, currency: str = "CHF") -> None:
        super().__init__()
        self.currency = currency

    class Unit(enum.Enum):
        """An enum inside of a class."""

        CENT = 1


PRICE = Money("EUR")


def test_types_of_an_application_are_named_with_their_module():
    assert type_from(f"{__name__}.PRICE") is PRICE
    money = type_from(f"{__name__}.Money")
    assert isinstance(money, Money)
    other = type_from(f"{__name__}.Money('USD')")
    assert isinstance(other, Money)
    assert other.currency == "USD"
    unit = type_from(f"{__name__}.Money.Unit")
    assert isinstance(unit, sa.Enum)
    assert unit.enum_class is Money.Unit


@pytest.mark.parametrize(
    "remark", [": the title", ', it\'s FROM "x"', "; y", " - (a) b", " -- c", " \u2013 d", "."]
)
def test_a_remark_may_follow_a_punctuation_mark(remark: str) -> None:
    assert type(type_from(f"Text{remark}")) is sa.Text
    assert isinstance(type_from(f"Numeric(10, 2){remark}"), sa.Numeric)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Txet", "there is no type Txet: is it Text"),
        ("text", "there is no type text: is it Text"),
        ("utcdatetime", "is it UTCDateTime"),
        ("Qqqqqqqq", "and none with a similar name"),
        ("ARRAY(Foo)", "there is no type Foo"),
        ("Text the title", "put a colon before them"),
        ("42", "begins with no type"),
        ("'Text'", "begins with no type"),
        ("Numeric(10", "a bracket is not closed"),
        ("Numeric(10))", "is no type"),
        ("Numeric(10 2)", "can't be read"),
        ("Enum(yes, in, no)", "can't be read"),
        ("Numeric(foo=1)", "can't be made with these arguments"),
        ("ARRAY()", "can't be made with these arguments"),
        ("String(1 + 1)", "1 + 1 is no type"),
        ("String(len('x'))", "there is no type len"),
        ("Enum(a-b, name=c)", "a - b is no type"),
        ("String(*[1])", "is no type"),
        ("String(**{'length': 1})", "is no type"),
        ("tests.models.Colour", "can't be imported"),
        ("no_such_module.Color", "can't be imported"),
        ("os.getcwd", "neither a type nor an enum"),
        ("os.system('true')", "neither a type nor an enum"),
        ("__import__('os')", "there is no type __import__"),
        ("tests.models.Color(1)", "takes no arguments"),
        ("TypeEngine.__init__", "can't be imported"),
    ],
)
def test_what_is_no_type_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UnreadableType) as caught:
        type_from(text)
    assert reason in str(caught.value)


def test_every_type_without_arguments_can_be_written():
    failed = set()
    for name, type_class in known_types().items():
        try:
            assert isinstance(type_from(name), type_class), name
        except UnreadableType:
            failed.add(name)
    assert failed <= {"ARRAY", "DOMAIN", "ENUM", "NamedType", "TupleType"}


@given(st.text("TexINARY(), '\"=.:*-1_", max_size=20))
def test_any_text_is_a_type_or_refused(text: str) -> None:
    with suppress(UnreadableType):
        type_from(text)
