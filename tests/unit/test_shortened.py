"""What is kept of parameters, and which of them are told apart."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from psycopg2.extras import Json

from onegov_orm._analyzing.shortened import digest, shortened

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=200) | st.binary(max_size=200),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "value",
    [None, True, 1, Decimal("1.50"), date(2024, 2, 29), "text", b"data", (1, "a"), {"a": []}],
)
def test_what_is_short_stays(value: Any) -> None:
    assert shortened(value) == value
    assert type(shortened(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x" * 500, "x" * 80 + "... (500 characters)"),
        (b"x" * 500, f"{b'x' * 32!r}... (500 bytes)"),
        (memoryview(b"abc"), b"abc"),
        (psycopg2.Binary(b"abc"), b"abc"),
        (Jsonb({"a": 1}), {"a": 1}),
        (Json({"a": 1}), {"a": 1}),
        (list(range(100)), [*range(10), "... (100 items)"]),
        (({"a": "x" * 500},), ({"a": "x" * 80 + "... (500 characters)"},)),
    ],
)
def test_what_is_long_is_shortened(value: Any, expected: Any) -> None:
    assert shortened(value) == expected


def test_many_parameters_are_shortened():
    found = shortened({f"key {number}": number for number in range(1000)})
    assert len(found) <= 21
    assert found["..."] == "(1000 items)"


@given(st.text(min_size=200) | st.binary(min_size=200) | st.lists(st.text(max_size=90)))
def test_nothing_long_is_kept(value: Any) -> None:
    assert len(shortened(value)) < 200


@given(VALUES, VALUES)
def test_other_values_are_told_apart(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (repr(one) == repr(other))


def test_values_of_other_types_are_told_apart():
    values = [1, "1", True, Decimal(1), b"1", [1], None, "None"]
    assert len({digest(each) for each in values}) == len(values)


def test_the_same_in_a_drivers_class_is_the_same():
    assert digest({"a": Jsonb({"b": 1})}) == digest({"a": Jsonb({"b": 1})})
    assert digest(psycopg2.Binary(b"abc")) == digest(psycopg2.Binary(b"abc"))
    assert digest(psycopg2.Binary(b"abc")) != digest(psycopg2.Binary(b"abd"))


def test_long_values_that_begin_alike_are_told_apart():
    assert digest("x" * 500 + "a") != digest("x" * 500 + "b")
    assert digest(b"x" * 500 + b"a") != digest(b"x" * 500 + b"b")
