"""Cached values: what is kept comes back as it was, and is nobody else's."""

from __future__ import annotations

import enum
from collections import OrderedDict
from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from onegov_orm import NotCacheable
from onegov_orm._serializers import Serializer
from onegov_orm.cache._codec import Codec
from tests.models import Document

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.sampled_from(["$type", "value", "__date__@2020-01-01"]),
    st.binary(),
    st.dates(),
    st.times(),
    st.datetimes(timezones=st.none() | st.timezones()).map(
        lambda value: value.replace(fold=0)
    ),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.text().map(Markup),
)  # fmt: skip
hashables = st.recursive(
    scalars, lambda inner: st.lists(inner).map(tuple) | st.frozensets(inner), max_leaves=5
)
values = st.recursive(
    hashables,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.sets(hashables)
        | st.dictionaries(st.text() | st.just("$type"), inner)
        | st.dictionaries(hashables, inner)
    ),
    max_leaves=12,
)

codec = Codec()


def shape(value: Any) -> Any:
    """Return the value with its types, which comparisons of numbers and texts overlook."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(each)) for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [shape(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return type(value), value
    if hasattr(value, "utcoffset"):
        return value.isoformat()
    return type(value), str(value)


@settings(max_examples=80, deadline=None)
@given(values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert shape(codec.decode(codec.encode(value, "x"))) == shape(value)


def test_what_comes_back_is_nobody_elses() -> None:
    text = codec.encode({"names": ["Ada"]}, "x")
    codec.decode(text)["names"].append("Eve")
    assert codec.decode(text) == {"names": ["Ada"]}


def test_a_subclass_of_dict_or_list_becomes_a_plain_one() -> None:
    class Names(list[str]):
        pass

    assert codec.decode(codec.encode([OrderedDict(a=1), Names("ab")], "x")) == [
        {"a": 1},
        ["a", "b"],
    ]


class Color(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (Document(), "users"),
        ([1, (Document(),)], "users[1][0]"),
        ({"a": {"b": [Document()]}}, "users['a']['b'][0]"),
        ({1: Document()}, "users[1]"),
        (Document, "users"),
        (Color.RED, "users"),
        ((each for each in ()), "users"),
        (object(), "users"),
    ],
)
def test_what_is_no_plain_data_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(NotCacheable) as caught:
        codec.encode(value, "users")
    assert caught.value.place == place


def test_a_serializer_adds_a_type() -> None:
    own = Codec([Serializer(complex, "complex", encode=str, decode=complex)])
    value = {"a": [1 + 2j, date(2020, 1, 1), Decimal("1.0"), UUID(int=1), timedelta(1)]}
    assert own.decode(own.encode(value, "x")) == value
