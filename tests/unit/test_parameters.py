"""Which colons of a statement begin a parameter, and that all others come through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.dialects import postgresql

from onegov_orm._selecting.parameters import Bindable, bindable
from onegov_orm._selecting.select_list import statement_of
from onegov_orm.errors import SelectableError

DIALECT = postgresql.dialect(paramstyle="named")


def read(query: str) -> Bindable:
    return bindable(query, statement_of(query))


def compiled(query: str) -> tuple[str, set[str]]:
    """Return what the server gets to read, with :name for a parameter, and the names."""
    result = text(read(query).text).compile(dialect=DIALECT)
    return str(result), set(result.params)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("SELECT :foo", {"foo"}),
        ("SELECT :foo, (:bar),:foo", {"foo", "bar"}),
        ("SELECT :foo::int", {"foo"}),
        ("SELECT a=:foo", {"foo"}),
        ("SELECT a[:foo]", {"foo"}),
        ("SELECT a::int", set()),
        ("SELECT a::int[]::text", set()),
        ("SELECT a[1:2], a[b:c], a[1 :2]", set()),
        ("SELECT f(a := 1), f(a:=1)", set()),
        ("SELECT ':foo', ' :foo', E'\\' :foo', $$ :foo $$, '12:30'", set()),
        ('SELECT " :foo", ":foo"', set()),
        ("SELECT '\\:foo', '\\\\ :foo', ' \\ :foo'", set()),
        ("SELECT 'a' '\n' ' :foo'", set()),
        ("SELECT a LIKE '%:foo%' AND b LIKE :bar", {"bar"}),
        ("SELECT content @? '$.a ? (@ > 1)' AND b = :foo", {"foo"}),
    ],
)
def test_parameters_are_found_and_the_rest_stays(query: str, names: set[str]) -> None:
    assert read(query).parameters == names
    assert compiled(query) == (query, names)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT a, -- :foo\n b -- it's :bar", "SELECT a,\n b"),
        ("SELECT a/* :foo */b", "SELECT a b"),
        ("-- head\nSELECT a -- foot\n;\n-- :foo", "SELECT a"),
        ("SELECT '--' -- :foo\n , a", "SELECT '--'\n , a"),
    ],
)
def test_comments_are_left_out(query: str, expected: str) -> None:
    assert compiled(query) == (expected, set())


def test_who_escapes_a_colon_for_sqlalchemy_gets_one():
    assert compiled(r"SELECT a \:foo") == ("SELECT a :foo", set())


def test_a_percent_sign_is_doubled_for_drivers_that_want_it():
    statement = text(read("SELECT a LIKE '%x' AND b % 2 = :c").text)
    sql = str(statement.compile(dialect=postgresql.psycopg2.dialect()))
    assert sql == "SELECT a LIKE '%%x' AND b %% 2 = %(c)s"


PARTS = st.sampled_from(
    ["a", "'", '"', "$$", ":", "::", ":b", " ", "\\", "(", "1", "%", ",", "\n", "E'"]
)


@given(st.lists(PARTS, max_size=12).map("".join))
def test_literals_come_through_unchanged(content: str) -> None:
    literal = "'" + content.replace("'", "''") + "'"
    assert compiled(f"SELECT {literal}, :foo") == (f"SELECT {literal}, :foo", {"foo"})


@given(st.lists(PARTS, max_size=12).map("".join))
def test_any_statement_has_the_parameters_that_are_told(query: str) -> None:
    try:
        found = read(query)
    except SelectableError:
        return
    assert set(text(found.text).compile(dialect=DIALECT).params) == found.parameters
