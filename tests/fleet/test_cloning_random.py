"""Random tables of random types with random rows are the same in every copy."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onegov_orm._sql import quote_identifier, quote_literal
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.cloning import clone
from onegov_orm.fleet.dumps import dump, restore
from onegov_orm.fleet.fingerprints import fingerprints
from tests.fleet.kitchen import Execute, context_of, make_customer, rows_of

TYPES = """
CREATE TYPE mood AS ENUM ('good', 'bad', 'so, so', '"');
CREATE DOMAIN short AS varchar(30);
CREATE TYPE pair AS (mood mood, words short);
CREATE TYPE moods AS RANGE (subtype = mood);
"""

names = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"]),
    min_size=1,
    max_size=12,
).filter(lambda name: len(name.encode()) <= 60)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=["Cs"]))
short_texts = texts.map(lambda text: text[:30])
moods = st.sampled_from(["good", "bad", "so, so", '"'])


def composite(parts: tuple[str | None, str | None]) -> str:
    """Return a composite value as the server reads it."""
    return "(" + ",".join(quoted(part) for part in parts) + ")"


def quoted(part: str | None) -> str:
    if part is None:
        return ""
    return '"' + part.replace("\\", "\\\\").replace('"', '""') + '"'


def array(items: list[str | None]) -> str:
    """Return an array as the server reads it."""
    shown = (
        "NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for item in items
    )
    return "{" + ",".join(shown) + "}"


pairs = st.tuples(st.none() | moods, st.none() | short_texts).map(composite)

VALUES: dict[str, st.SearchStrategy[str]] = {
    "integer": st.integers(-(2**31), 2**31 - 1).map(str),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": st.decimals(allow_infinity=False).filter(lambda n: not n.is_nan()).map(str),
    "float8": st.floats().map(repr),
    "float4": st.floats(width=32).map(repr),
    "boolean": st.booleans().map(str),
    "text": texts,
    "short": short_texts,
    "char(9)": texts.map(lambda text: text[:9]),
    "bytea": st.binary().map(lambda data: "\\x" + data.hex()),
    "date": st.dates().map(str),
    "timestamptz": st.datetimes().map(lambda at: f"{at}+00"),
    "interval": st.integers(-(10**9), 10**9).map(lambda seconds: f"{seconds} seconds"),
    "uuid": st.uuids().map(str),
    "jsonb": st.sampled_from(["{}", '{"a": ["\\\\", "\\n", null]}', '"☃"', "1e3"]),
    "int4range": st.tuples(st.integers(0, 9), st.integers(10, 20)).map(
        lambda p: f"[{p[0]},{p[1]})"
    ),
    "mood": moods,
    "mood[]": st.lists(st.none() | moods).map(array),
    "text[]": st.lists(st.none() | texts).map(array),
    "pair": pairs,
    "pair[]": st.lists(st.none() | pairs).map(array),
    "moods": st.sampled_from(["empty", "[good,bad]", '["so, so",)', "(,)"]),
}

tables = st.lists(
    st.tuples(
        st.dictionaries(names, st.sampled_from(sorted(VALUES)), max_size=5).flatmap(
            lambda columns: st.tuples(
                st.just(columns),
                st.lists(
                    st.tuples(*(st.none() | VALUES[kind] for kind in columns.values())), max_size=4
                ),
            )
        ),
        st.sampled_from(["", "UNLOGGED"]),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture
def execute(common_dsn: str) -> Iterator[Execute]:
    connection = psycopg2.connect(common_dsn)
    connection.autocommit = True

    def run(sql: str) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    yield run
    connection.close()


@pytest.fixture
def context(common_dsn: str, new_manager: Callable[..., Any]) -> FleetContext:
    return context_of(new_manager, common_dsn)


def script_of(made: list[Any]) -> str:
    """Return what makes random tables."""
    statements = [TYPES]
    for number, ((columns, rows), kind) in enumerate(made):
        table = quote_identifier(f"t {number}")
        shown = ", ".join(f"{quote_identifier(name)} {kind}" for name, kind in columns.items())
        statements.append(f"CREATE {kind} TABLE {table} ({shown});")
        for row in rows:
            values = ", ".join("NULL" if each is None else quote_literal(each) for each in row)
            insert = f"VALUES ({values})" if row else "DEFAULT VALUES"
            statements.append(f"INSERT INTO {table} {insert};")
    return "\n".join(statements)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(made=tables)
def test_random_tables_survive(execute: Execute, context: FleetContext, made: list[Any]) -> None:
    for schema in ("a", "b", "c"):
        execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    make_customer(execute, "a", script_of(made))
    rows = rows_of(execute, "a")
    clone(context, "a", "b")
    file = io.BytesIO()
    dump(context, "b", file)
    restore(context, file, "c")
    with context.connected() as connection, connection.begin():
        found = fingerprints(connection, ["a", "b", "c"])
    assert len(set(found.values())) == 1
    assert rows_of(execute, "b") == rows
    assert rows_of(execute, "c") == rows
