"""Behind a PgBouncer: what can't work is refused before it is sent, and nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import exc, text
from sqlalchemy.util import await_only

from onegov_orm import AsyncSessionManager, ConfigurationError, PoolerRestriction, SessionManager
from tests.clients import CLIENTS, Client, driver_of, new_client
from tests.conftest import ASYNC_DRIVERS, DRIVERS, Databases, skip_or_fail
from tests.models import Base
from tests.poolers import PgBouncer, find_pgbouncer

#: What PgBouncer ignores at the start of a connection, as many installations have it.
IGNORED = "options,search_path,idle_in_transaction_session_timeout,extra_float_digits"

REFUSED = (
    "LISTEN gossip",
    "/* a comment */ LISTEN gossip",
    "DO $$ BEGIN EXECUTE 'LISTEN ' || quote_ident('gossip'); END $$",
    "DO $$ BEGIN EXECUTE format('LISTEN %I', 'gossip'); END $$",
    "SET statement_timeout = '77s'",
    "SET SESSION work_mem = '1234kB'",
    "set search_path to elsewhere",
    "SET ROLE nobody",
    "SELECT set_config('app.user', 'ada', false)",
    "SELECT pg_catalog.set_config('search_path', 'elsewhere', 'f')",
    "UPDATE pg_settings SET setting = '77s' WHERE name = 'statement_timeout'",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_advisory_lock_shared(1)",
    "SELECT pg_try_advisory_lock(1, 2)",
    "CREATE TEMP TABLE stay (a int)",
    "CREATE TEMPORARY TABLE stay AS SELECT 1 AS a",
    "CREATE LOCAL TEMPORARY TABLE stay (a int)",
    "CREATE TEMP TABLE stay (a int) ON COMMIT DELETE ROWS",
    "CREATE TEMP VIEW stay AS SELECT 1 AS a",
    "CREATE OR REPLACE TEMP VIEW stay AS SELECT 1 AS a",
    "CREATE TEMP SEQUENCE stay",
    "SELECT 1 AS a INTO TEMP stay",
    "SELECT 1 AS a INTO TEMPORARY TABLE stay",
    "CREATE TEMP TABLE gone (a int) ON COMMIT DROP; CREATE TEMP TABLE stay (a int)",
    "CREATE TABLE pg_temp.stay (a int)",
    'CREATE TABLE IF NOT EXISTS "pg_temp" . stay AS SELECT 1 AS a',
    "SELECT 1 AS a INTO pg_temp.stay",
    "CREATE/**/TEMP/**/TABLE stay (a int)",
    'SELECT pg_catalog."pg_advisory_lock" (1)',
    "PREPARE mine AS SELECT 1",
    "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE held INSENSITIVE SCROLL CURSOR WITH HOLD FOR SELECT 1",
    "LOAD 'auto_explain'",
    "DO $$ BEGIN PERFORM pg_advisory_lock(1); END $$",
    "DO $$ BEGIN SET statement_timeout = '77s'; END $$",
    "COMMIT; SELECT 1",
    "ROLLBACK; INSERT INTO documents (owner) VALUES ('elsewhere')",
    "SELECT 1; END; SELECT 2",
    "ABORT; BEGIN",
)

ALLOWED = (
    "SELECT 1 AS temp",
    "SELECT title AS temporary FROM documents",
    "SELECT owner AS hold, title AS write FROM documents",
    "SELECT 'LISTENers listened'",
    "SELECT owner AS listen, 'please listen' FROM documents WHERE title = 'listen'",
    "SELECT set_config('app.user', coalesce(nullif('', ''), 'ada'), true)",
    "INSERT INTO documents (owner) SELECT 'temp' AS temp",
    "SELECT lower('holding with a cursor')",
    "CREATE TABLE templates (temperature int, hold int, advisory_id int, write bool)",
    "CREATE TABLE holders (with_hold int)",
    "CREATE TABLE IF NOT EXISTS temp_files (a int)",
    "CREATE VIEW temps AS SELECT 1 AS temp",
    "SELECT count(*) FROM documents WHERE title LIKE 'temp table%'",
    "SELECT count(*) AS advisory_locked FROM documents",
    "CREATE TEMP TABLE gone (a int) ON COMMIT DROP",
    "CREATE TEMPORARY TABLE gone ON COMMIT DROP AS SELECT owner FROM documents",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_advisory_xact_lock_shared(1)",
    "SELECT pg_try_advisory_xact_lock(1, 2)",
    "SET LOCAL statement_timeout = '77s'",
    "SET CONSTRAINTS ALL DEFERRED",
    "SELECT set_config('app.user', 'ada', true)",
    "DECLARE fleeting CURSOR FOR SELECT 1",
    "DECLARE fleeting CURSOR WITHOUT HOLD FOR SELECT 1",
    "UPDATE documents SET title = 'new' WHERE title = 'commit'",
    "SELECT CASE WHEN owner = 'x' THEN 1 ELSE 2 END FROM documents",
    "LOCK TABLE documents IN EXCLUSIVE MODE",
    "DO $$ DECLARE loaded int; BEGIN loaded := 1; END $$",
    "COMMENT ON TABLE documents IS 'we prepare and load them, and hold the lock'",
    "NOTIFY gossip, 'heard'",
)


@pytest.fixture(scope="module")
def pooler(newest: Databases) -> Iterator[PgBouncer]:
    if find_pgbouncer() is None:
        skip_or_fail("no PgBouncer on this machine: apt-get install pgbouncer")
    with PgBouncer(newest.server, default_pool_size=1) as pooler:
        yield pooler


@pytest.fixture(scope="module")
def pooled_database(newest: Databases) -> Iterator[str]:
    name = newest.create()
    yield name
    newest.drop(name)


@pytest.fixture(scope="module", params=CLIENTS)
def client(
    request: pytest.FixtureRequest, pooler: PgBouncer, pooled_database: str
) -> Iterator[Client]:
    dsn = pooler.dsn(pooled_database, driver=driver_of(request.param))
    client = new_client(request.param, dsn, pooler="external")
    client.run("towns-bern", lambda session: None)
    yield client
    client.close()


def queries(pooler: PgBouncer, database: str) -> int:
    """Return how many queries of clients the pooler has passed on."""
    (row,) = [row for row in pooler.show("STATS_TOTALS") if row["database"] == database]
    return int(row["query_count"])


@pytest.mark.parametrize("statement", REFUSED)
def test_what_can_not_work_is_refused(client, statement):
    def work(session):
        session.execute(text("SELECT 1"))
        with pytest.raises(PoolerRestriction, match="connected straight to the server"):
            session.execute(text(statement))
        # nothing was sent: the transaction is as it was
        question = "SELECT pg_current_xact_id_if_assigned(), current_schema()"
        assert session.execute(text(question)).one() == (None, "towns-bern")

    client.run("towns-bern", work)


def test_what_is_refused_was_not_sent(client, pooler, pooled_database):
    def work(session):
        session.execute(text("SELECT 1"))
        before = queries(pooler, pooled_database)
        for statement in REFUSED:
            with suppress(PoolerRestriction):
                session.execute(text(statement))
        return queries(pooler, pooled_database) - before

    assert client.run("towns-bern", work) == 0


def test_what_comes_first_is_refused_too(client):
    for statement in ("LISTEN gossip", "SELECT pg_advisory_lock(1)"):
        with pytest.raises(PoolerRestriction):
            client.run("towns-bern", lambda it, sql=statement: it.execute(text(sql)))


@pytest.mark.parametrize("statement", ALLOWED)
def test_what_can_work_is_not_refused(client, statement):
    def work(session):
        session.execute(text(statement))
        session.rollback()

    client.run("towns-bern", work)


def test_temporary_tables_may_last_for_the_transaction(client):
    make = "CREATE TEMP TABLE mine ON COMMIT DROP AS SELECT 7 AS number"

    def work(session):
        session.execute(text(make))
        return session.scalar(text("SELECT number FROM mine"))

    for _ in range(2):
        assert client.run("towns-bern", work) == 7


@pytest.mark.parametrize("schema", ["towns-bern", None])
def test_autocommit_is_refused(client, schema):
    with pytest.raises(PoolerRestriction, match="AUTOCOMMIT"):
        client.connect(
            lambda it: it.execute(text("SELECT 1")), schema=schema, isolation_level="AUTOCOMMIT"
        )


@pytest.mark.parametrize("client", [name for name in CLIENTS if name != "asyncpg"], indirect=True)
def test_cursors_that_outlive_their_transaction_are_refused(client):
    def work(session):
        session.execute(text("SELECT 1"))
        connection = session.connection().connection
        if client.driver == "psycopg2":
            cursor = connection.cursor("held", withhold=True)
        else:
            cursor = connection.driver_connection.cursor("held", withhold=True)
        with pytest.raises(PoolerRestriction):
            _finish(cursor.execute("SELECT 1"))
        _finish(cursor.close())

    client.run("towns-bern", work)


def _finish(result: Any) -> None:
    """Await what a driver's method returned, in SQLAlchemy's greenlet."""
    if asyncio.iscoroutine(result):
        await_only(result)


# -- managers that were not told of the pooler


def connect_to(dsn: str, **options: Any) -> None:
    """Use a manager of the kind that the URL needs."""
    if "asyncpg" in dsn or "async" in options:
        options.pop("async", None)

        async def main() -> None:
            mgr = AsyncSessionManager(dsn, Base, **options)
            try:
                await mgr.list_schemas()
            finally:
                await mgr.dispose()

        asyncio.run(main())
        return
    mgr = SessionManager(dsn, Base, **options)
    try:
        mgr.list_schemas()
    finally:
        mgr.dispose()


KINDS = [(name, {}) for name in DRIVERS] + [(name, {"async": True}) for name in ASYNC_DRIVERS]


@pytest.mark.parametrize(("driver", "options"), KINDS)
def test_a_manager_that_was_not_told_says_what_to_do(
    pooler, pooled_database, outside, driver, options
):
    dsn = pooler.dsn(pooled_database, driver=driver)
    with pytest.raises(ConfigurationError, match="pooler='external'"):
        connect_to(dsn, **options)
    connect_to(dsn, **options, pooler="external")


@pytest.mark.parametrize("server", ["newest", "older"])
@pytest.mark.parametrize(("driver", "options"), KINDS)
def test_settings_that_a_pooler_ignores_are_missed(request, new_pooler, server, driver, options):
    databases = request.getfixturevalue(server)
    pooler = new_pooler(databases, settings={"ignore_startup_parameters": IGNORED})
    dsn = pooler.dsn(driver=driver)
    with pytest.raises(ConfigurationError, match="pooler='external'"):
        connect_to(dsn, **options)


def test_settings_at_the_start_are_refused(pooler, pooled_database, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=1MB")
    with pytest.raises(ConfigurationError, match="PGOPTIONS"):
        connect_to(pooler.dsn(pooled_database, driver="psycopg2"), pooler="external")


def test_other_errors_of_the_pooler_are_its_own(pooler, new_manager):
    mgr = new_manager(pooler.dsn("not_there"), Base, pooler="external")
    with pytest.raises(exc.OperationalError, match="not_there"):
        mgr.list_schemas()
