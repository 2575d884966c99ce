"""Values as JSON and back again, without a database."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PurePath
from typing import Any, Self
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from onegov_orm import ConfigurationError, NotSerializable
from onegov_orm._serializers import Serializer, Serializers, default_serializers

ZURICH = timezone(timedelta(hours=2))
SOME_UUID = UUID("12345678123456781234567812345678")


@dataclass(frozen=True)
class Money:
    """A type of an application's own."""

    amount: Decimal
    currency: str

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}"

    @classmethod
    def parse(cls, text: str) -> Self:
        amount, currency = text.split()
        return cls(Decimal(amount), currency)


class Salary(Money):
    """A subclass that nobody registered."""


money = Serializer(Money, "money", encode=str, decode=Money.parse)
WITH_MONEY = default_serializers.extended(money)


def there_and_back(value: Any, serializers: Serializers = default_serializers) -> Any:
    return serializers.decode(json.loads(json.dumps(serializers.encode(value), allow_nan=False)))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (date(2020, 1, 31), "__date__@2020-01-31"),
        (time(8, 30), "__time__@08:30:00"),
        (datetime(2020, 1, 31, 8, 30), "__datetime__@2020-01-31T08:30:00"),  # noqa: DTZ001
        (datetime(2020, 1, 31, 8, 30, tzinfo=UTC), "__datetime__@2020-01-31T08:30:00Z"),
        (datetime(2020, 1, 31, 8, 30, tzinfo=ZURICH), "__datetime__@2020-01-31T08:30:00+02:00"),
        (Decimal("10.50"), "__decimal__@10.50"),
        (SOME_UUID, "__uuid__@12345678-1234-5678-1234-567812345678"),
    ],
)
def test_values_are_written_as_older_rows_have_them(value: object, written: str) -> None:
    assert default_serializers.encode(value) == written
    assert default_serializers.decode(written) == value


def test_microseconds_and_offsets_are_kept() -> None:
    moment = datetime(2020, 1, 31, 8, 30, 5, 123, tzinfo=ZURICH)
    read = there_and_back(moment)
    assert (read, read.utcoffset()) == (moment, timedelta(hours=2))


def test_values_are_found_at_any_depth() -> None:
    value = {"a": [{"b": date(2020, 1, 1)}, [[Decimal("1.0")]]], "c": {"d": {"e": SOME_UUID}}}
    assert there_and_back(value) == value


def test_what_is_encoded_stays_as_it_was() -> None:
    value = {"a": [date(2020, 1, 1), {"b": time(1)}]}
    default_serializers.encode(value)
    assert value == {"a": [date(2020, 1, 1), {"b": time(1)}]}


def test_decoding_changes_the_structure_in_place() -> None:
    structure = {"a": ["__date__@2020-01-01"]}
    assert default_serializers.decode(structure) is structure
    assert structure == {"a": [date(2020, 1, 1)]}


@pytest.mark.parametrize(
    "text",
    [
        "__date__@hello",
        "__date__@2020-01-01",
        "__nobody__@hello",
        "__str__@hello",
        "__str__@__date__@2020-01-01",
        "__str__@__str__@__date__@2020-01-01",
    ],
)
def test_a_text_that_looks_like_a_value_stays_a_text(text: str) -> None:
    assert there_and_back({"name": text}) == {"name": text}


def test_a_text_that_looks_like_a_value_is_escaped_when_written() -> None:
    assert default_serializers.encode("__date__@hello") == "__str__@__date__@hello"


@pytest.mark.parametrize(
    "text",
    ["__date__@hello", "__decimal__@", "__uuid__@1", "__nobody__@x", "__str__@hello", "__x", "__"],
)
def test_what_an_older_application_wrote_is_readable_whatever_it_is(text: str) -> None:
    assert default_serializers.decode({"name": text}) == {"name": text}


def test_tuples_are_written_as_lists() -> None:
    point = namedtuple("point", "x y")
    assert default_serializers.encode({"a": (1, (2,)), "b": point(3, 4)}) == {
        "a": [1, [2]],
        "b": [3, 4],
    }


def test_subclasses_of_plain_types_are_written_as_plain_values() -> None:
    number = IntEnum("number", "one")
    text = StrEnum("text", "one")
    mixed = Enum("mixed", {"one": "1"}, type=str)
    value = [number.one, text.one, mixed.one, Markup("<b>"), OrderedDict(a=1)]
    written = default_serializers.encode(value)
    assert written == [1, "one", "1", "<b>", {"a": 1}]
    assert [type(each) for each in written] == [int, str, str, str, dict]


def test_the_types_of_an_application_survive() -> None:
    value = {"prices": [Money(Decimal("9.90"), "CHF")]}
    assert WITH_MONEY.encode(value) == {"prices": ["__money__@9.90 CHF"]}
    assert there_and_back(value, WITH_MONEY) == value


def test_a_serializer_is_for_derived_classes_too() -> None:
    paths = Serializers((Serializer(PurePath, "path", encode=str, decode=Path),))
    assert there_and_back([Path("/tmp")], paths) == [Path("/tmp")]
    assert WITH_MONEY.encode(Salary(Decimal(1), "CHF")) == "__money__@1 CHF"


def test_the_nearest_base_decides() -> None:
    salary = Serializer(Salary, "salary", encode=str, decode=Salary.parse)
    for both in (WITH_MONEY.extended(salary), Serializers((salary, money))):
        assert both.encode(Salary(Decimal(1), "CHF")) == "__salary__@1 CHF"


def test_a_text_of_a_type_of_its_own_can_have_a_serializer() -> None:
    markup = default_serializers.extended(Serializer(Markup, "markup", str, Markup))
    assert type(there_and_back(Markup("<b>"), markup)) is Markup


def test_extending_leaves_the_original_alone() -> None:
    assert default_serializers != WITH_MONEY
    with pytest.raises(NotSerializable):
        default_serializers.encode(Money(Decimal(1), "CHF"))


def test_equal_serializers_have_the_same_hash() -> None:
    again = default_serializers.extended(Serializer(Money, "money", str, Money.parse))
    assert again == WITH_MONEY
    assert hash(again) == hash(WITH_MONEY)


@pytest.mark.parametrize("name", ["str", "", "two words", "dash-ed", "a1", "ü", "a\n"])
def test_a_serializer_needs_a_name_of_plain_letters(name: str) -> None:
    with pytest.raises(ConfigurationError, match="plain letters"):
        Serializer(Money, name, str, Money.parse)


@pytest.mark.parametrize("target", [str, int, bool, dict, list, tuple, OrderedDict, object])
def test_a_serializer_is_not_for_what_json_has(target: type[Any]) -> None:
    with pytest.raises(ConfigurationError, match="as JSON has it"):
        Serializer(target, "mine", str, str)


def test_two_serializers_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="same name"):
        WITH_MONEY.extended(Serializer(Salary, "money", str, Salary.parse))


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"a": [1, 2, 3, object()]}, "value['a'][3]", "no serializer is for object"),
        ({"a": {1: 2}}, "value['a'][1]", "keys are texts"),
        ([float("nan")], "value[0]", "JSON has no nan"),
        (float("-inf"), "value", "JSON has no -inf"),
        ({"a": {"b": {1, 2}}}, "value['a']['b']", "no serializer is for set"),
        ([b"bytes"], "value[0]", "no serializer is for bytes"),
    ],
)
def test_an_error_tells_where_in_the_value_its_reason_is(
    value: object, path: str, reason: str
) -> None:
    with pytest.raises(NotSerializable, match=reason) as caught:
        default_serializers.encode(value)
    assert caught.value.path == path


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotSerializable, match="contains itself"):
        default_serializers.encode(value)


def test_a_mistake_in_the_writing_of_a_type_is_the_applications_own_error() -> None:
    broken = Serializer(Money, "money", encode=lambda value: value.nothing, decode=Money.parse)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        default_serializers.extended(broken).encode([Money(Decimal(1), "CHF")])


texts = st.text() | st.from_regex(r"__(str|date|decimal|nobody)__@(__date__@)?.*")
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(UTC) | offsets)
    | st.decimals(allow_nan=False)
    | st.uuids()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)


def with_types(value: Any) -> Any:
    """Return what tells values apart that Python takes for equal."""
    if isinstance(value, dict):
        return {key: with_types(each) for key, each in value.items()}
    if isinstance(value, list):
        return [with_types(each) for each in value]
    return type(value), str(value)


@settings(max_examples=150, deadline=None)
@given(values)
def test_whatever_is_written_comes_back_as_it_was(value: Any) -> None:
    assert with_types(there_and_back(value)) == with_types(value)
