"""Dropping for good, on a server that has few locks."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from onegov_orm import SchemaNeeded
from onegov_orm._ddl import run_script
from onegov_orm.fleet import _purging, lifecycle
from onegov_orm.fleet._context import FleetContext
from onegov_orm.fleet.runner import Outcome, Stopper
from tests.conftest import NEWEST, _databases
from tests.models import Base
from tests.provisioning import has_schema

BERN = "towns-bern"

#: Things of all kinds, more than enough for the locks of a small server.
KINDS = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN short AS text CHECK (length(value) < 10);
CREATE TYPE pair AS (a int, b mood);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE TABLE big (id int PRIMARY KEY, m mood, s short, p pair);
CREATE TABLE parted (id int, day date) PARTITION BY RANGE (id);
CREATE TABLE base_table (id int);
CREATE TABLE derived () INHERITS (base_table);
CREATE SEQUENCE "odd ""name"" 100%";
CREATE FUNCTION twice(x int) RETURNS int LANGUAGE sql AS 'SELECT x * 2';
CREATE FUNCTION twice(x mood, OUT y int) LANGUAGE sql AS 'SELECT 2';
CREATE PROCEDURE nothing(x pair) LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE AGGREGATE middle(float8 ORDER BY anyelement)
    (SFUNC = ordered_set_transition, STYPE = internal, FINALFUNC = percentile_disc_final,
    FINALFUNC_EXTRA);
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq);
CREATE COLLATION own FROM "C";
CREATE TEXT SEARCH CONFIGURATION own (COPY = simple);
CREATE VIEW v0 AS SELECT id FROM big;
CREATE MATERIALIZED VIEW stored AS SELECT twice(id) FROM big;
CREATE STATISTICS big_statistics ON id, m FROM big;
CREATE TABLE "odd ""name"" %s :x" (id serial, n int GENERATED ALWAYS AS (twice(1)) STORED);
ALTER TABLE big ADD FOREIGN KEY (id) REFERENCES big;
"""
#: Without those of the session itself and of the system's catalogs.
HELD = """
SELECT count(*) FROM pg_locks
WHERE pid = pg_backend_pid() AND (mode = 'AccessExclusiveLock' OR locktype = 'object')
"""
TABLES = """
DO $$ BEGIN FOR i IN %(first)d..%(last)d LOOP
    EXECUTE format('CREATE TABLE t%%s (id serial PRIMARY KEY, big int REFERENCES big,
        a text DEFAULT ''a'', b text UNIQUE CHECK (b > ''''), c int
        GENERATED ALWAYS AS IDENTITY)', i);
    EXECUTE format('CREATE INDEX ON t%%s (a, b)', i);
    EXECUTE format('CREATE VIEW v%%s AS SELECT v.id FROM v%%s AS v JOIN t%%s USING (id)',
        i, i - 1, i);
    EXECUTE format('CREATE FUNCTION f%%s(t%%s) RETURNS int LANGUAGE sql AS ''SELECT 1''', i, i);
    EXECUTE format('CREATE TABLE part%%s PARTITION OF parted FOR VALUES FROM (%%s) TO (%%s)',
        i, i, i + 1);
    EXECUTE format('CREATE TYPE e%%s AS ENUM (''x'')', i);
    EXECUTE format('CREATE SEQUENCE s%%s', i);
END LOOP; END $$
"""


@pytest.fixture(scope="module")
def small():
    """A server with room for some 200 locks."""
    settings = {"max_locks_per_transaction": "10", "max_connections": "20"}
    yield from _databases(NEWEST, settings)


@pytest.fixture
def small_dsn(small):
    name = small.create()
    yield small.server.dsn(name, tcp=False)
    small.drop(name)


@pytest.fixture
def context(small_dsn, new_manager):
    return FleetContext(new_manager(small_dsn, Base, transaction_manager=None))


@pytest.fixture
def execute(small_dsn, outside):
    return outside(small_dsn)


def make(context, execute, tables=40):
    """Make a customer with so many tables, in transactions that there are locks for."""
    lifecycle.create(context, BERN)
    execute(f'SET search_path TO "{BERN}"')
    execute(KINDS)
    for first in range(1, tables + 1, 5):
        execute(TABLES % {"first": first, "last": first + 4})
    execute("RESET search_path")


def count(execute, schema):
    return execute(
        f"SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
        f" WHERE nspname = '{schema}'"
    )[0][0]


def test_a_schema_with_more_things_than_locks_is_dropped(context, execute):
    make(context, execute)
    with pytest.raises(Exception, match="out of shared memory"):
        execute(f'DROP SCHEMA "{BERN}" CASCADE')
    name = lifecycle.drop(context, BERN)
    report = lifecycle.purge(context)
    assert [(each.outcome, each.error) for each in report.results] == [(Outcome.DONE, "")]
    assert int(report.results[0].detail.split()[1]) > 10
    assert not has_schema(execute, f'"{name}"')
    assert execute(
        "SELECT count(*) FROM pg_proc WHERE proname LIKE 'f%' AND pronargs = 1 "
        "AND pronamespace::regnamespace::text LIKE '%trash%'"
    ) == [(0,)]


def test_an_interrupted_purge_goes_on(context, execute, monkeypatch):
    make(context, execute, 10)
    lifecycle.drop(context, BERN)
    trashed = lifecycle.trash(context)[0].schema
    before = count(execute, trashed)
    real, portions = _purging._portions, []

    def failing(connection, schema):
        portions.append(schema)
        if len(portions) == 10:
            raise OperationalError("", {}, Exception("the power went out"))
        return real(connection, schema)

    monkeypatch.setattr(_purging, "_portions", failing)
    report = lifecycle.purge(context)
    assert report.results[0].outcome is Outcome.FAILED
    assert 0 < count(execute, trashed) < before
    assert lifecycle.trash(context)[0].is_partial
    report = lifecycle.purge(context)
    assert report.is_ok
    assert lifecycle.trash(context) == []


def test_a_purge_that_is_stopped_leaves_the_rest_for_the_next(context, execute):
    make(context, execute, 10)
    lifecycle.drop(context, BERN)
    lifecycle.create(context, "towns-basel")
    lifecycle.drop(context, "towns-basel")
    stop = Stopper()
    stop.set()
    report = lifecycle.purge(context, stop=stop)
    assert [each.outcome for each in report.results] == [Outcome.PENDING] * 2
    assert lifecycle.purge(context).is_ok


@pytest.mark.parametrize(
    ("sql", "needed"),
    [
        ("CREATE VIEW public.v AS SELECT id FROM {}.big", "view public.v"),
        ("CREATE TABLE public.t (id int REFERENCES {}.big)", "table public.t"),
        ("CREATE TABLE public.t (m {}.mood)", "table public.t"),
        ("CREATE TABLE public.t (id int DEFAULT {}.twice(1))", "table public.t"),
        ("CREATE FUNCTION public.f({}.big) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function"),
        ("CREATE TYPE public.y AS (m {}.mood)", "type public.y"),
    ],
)
def test_what_others_need_is_not_dropped(context, execute, sql, needed):
    make(context, execute, 0)
    execute(sql.format(f'"{BERN}"'))
    with pytest.raises(SchemaNeeded, match=needed):
        lifecycle.drop(context, BERN, purge=True)
    assert context.customer(BERN)
    lifecycle.drop(context, BERN)
    report = lifecycle.purge(context)
    assert needed in report.results[0].error
    assert lifecycle.undo(context, BERN) == BERN


def test_what_is_shared_is_waited_for_shortly_and_often(context, execute, small_dsn, outside):
    make(context, execute, 5)
    execute("CREATE SCHEMA shared; CREATE TABLE shared.t (id int PRIMARY KEY)")
    execute(f'ALTER TABLE "{BERN}".t1 ADD FOREIGN KEY (id) REFERENCES shared.t')
    lifecycle.drop(context, BERN)
    other = outside(small_dsn)
    other("BEGIN; LOCK shared.t IN SHARE MODE")
    threading.Timer(1.5, other, ["COMMIT"]).start()
    report = lifecycle.purge(context)
    assert report.is_ok
    assert report.results[0].tries > 1


def test_no_portion_takes_more_locks_than_its_share(context, execute, monkeypatch):
    make(context, execute, 15)
    lifecycle.drop(context, BERN)
    held = []

    def watched(connection, statements):
        run_script(connection, statements)
        held.append(connection.scalar(text(HELD)))

    monkeypatch.setattr(_purging, "run_script", watched)
    assert lifecycle.purge(context).is_ok
    # One table alone may need more than that.
    assert max(held) < 200 / 3
