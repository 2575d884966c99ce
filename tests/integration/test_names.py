"""Schema names on a real server: what Python accepts, PostgreSQL gives back unchanged."""

from __future__ import annotations

import string

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from onegov_orm import _sql
from onegov_orm.names import SchemaName, broken_rule

on_server = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
names = st.text(
    alphabet=string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=63
).filter(lambda name: broken_rule(name) is None)
texts = st.text(st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"]))


@pytest.fixture
def execute(common_dsn, outside):
    return outside(common_dsn)


@on_server
@given(names)
@example("x" * 63)
@example("-" + "x-" * 31)
@example("select")
@example("user")
@example("default")
@example("none")
@example("pg")
def test_every_accepted_name_comes_back_byte_for_byte(execute, text):
    name = SchemaName(text)
    execute(_sql.create_schema(name))
    try:
        execute(_sql.set_search_path([name]))
        execute("CREATE TABLE t AS SELECT 1 AS x")
        assert execute("SELECT CAST(current_schema() AS text)") == [(text,)]
        assert execute(f"SELECT x FROM {_sql.quote_identifier(name)}.t") == [(1,)]
    finally:
        execute(f"DROP SCHEMA {_sql.quote_identifier(name)} CASCADE")


@on_server
@given(texts)
@example("'; DROP TABLE x; --")
@example("\\'")
@example("\\")
@example("%s %% :x {}")
@example("E'")
def test_a_literal_comes_back(execute, text):
    for conforming in ("on", "off"):
        execute(f"SET standard_conforming_strings = {conforming}")
        assert execute(f"SELECT {_sql.quote_literal(text)}") == [(text,)]


@on_server
@given(texts.filter(lambda text: 1 <= len(text.encode()) <= 63))
@example('"')
@example('a"; DROP SCHEMA "b')
@example("UPPER case")
def test_an_identifier_comes_back(execute, text):
    execute(f"CREATE TEMPORARY TABLE t AS SELECT 1 AS {_sql.quote_identifier(text)}")
    try:
        sql = (
            "SELECT attname::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum = 1"
        )
        assert execute(sql) == [(text,)]
    finally:
        execute("DROP TABLE t")


def test_two_names_of_63_bytes_are_two_schemas(execute):
    for name in ("x" * 62 + "a", "x" * 62 + "b"):
        execute(_sql.create_schema(SchemaName(name)))
    assert execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'xxx%'") == [(2,)]
