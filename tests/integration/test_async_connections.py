"""Where statements of asynchronous sessions run, and what stays on their connections."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ResourceClosedError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from onegov_orm.errors import ConfigurationError, SearchPathMoved
from tests.asynchronous import (
    BASEL,
    BERN,
    ONE_CONNECTION,
    in_loop,
    out,
    owners,
    run,
    settle,
    where,
)
from tests.conftest import ASYNC_DRIVERS, PIPELINE
from tests.models import Base, Document

COUNT_TEMPORARY = "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"
COUNT_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
COUNT_CURSORS = "SELECT count(*) FROM pg_cursors WHERE is_holdable"
OWNER = text("SELECT owner FROM documents ORDER BY id")


#: Each driver in turn, psycopg 3 in both ways.
all_ways = pytest.mark.parametrize("async_driver", [*ASYNC_DRIVERS, PIPELINE])


@pytest.fixture
def shared(async_dsn, new_async_manager):
    """Make a manager with one connection, which all customers share one after the other."""

    async def make(**options):
        options.setdefault("pool_config", ONE_CONNECTION)
        return await settle(new_async_manager(async_dsn, Base, **options))

    return make


async def raw(session):
    """Return the driver's own connection."""
    connection = await session.connection()
    return (await connection.get_raw_connection()).driver_connection


async def execute_raw(session, sql):
    """Execute SQL past SQLAlchemy."""
    await session.execute(text("SELECT 1"))
    await (await raw(session)).execute(sql)


# -- what one customer leaves


@pytest.mark.parametrize(
    ("statement", "question", "clean"),
    [
        ("CREATE TEMPORARY TABLE documents (owner text)", COUNT_TEMPORARY, 0),
        ("LISTEN gossip", "SELECT count(*) FROM pg_listening_channels()", 0),
        ("SELECT pg_advisory_lock(1)", COUNT_LOCKS, 0),
        ("DECLARE held CURSOR WITH HOLD FOR SELECT 1", COUNT_CURSORS, 0),
        ("SET statement_timeout = '77s'", "SHOW statement_timeout", "0"),
        ("SELECT set_config('app.user', 'ada', false)", "SELECT current_setting('app.user')", ""),
        (
            "PREPARE mine AS SELECT 1",
            "SELECT count(*) FROM pg_prepared_statements WHERE name = 'mine'",
            0,
        ),
    ],
)
@in_loop
async def test_traces_are_removed(shared, statement, question, clean):
    mgr = await shared()
    await run(mgr, BERN, statement)
    assert await run(mgr, BASEL, question) == clean
    await run(mgr, BERN, statement)
    async with mgr.engine.connect() as connection:
        assert await connection.scalar(text(question)) == clean


@pytest.mark.parametrize(
    ("body", "question", "clean"),
    [
        ("CREATE TEMP TABLE documents (owner text)", COUNT_TEMPORARY, 0),
        ("PERFORM pg_advisory_lock(1)", COUNT_LOCKS, 0),
        ("LISTEN gossip", "SELECT count(*) FROM pg_listening_channels()", 0),
    ],
    ids=["table", "lock", "listen"],
)
@in_loop
async def test_traces_of_functions_are_removed(shared, body, question, clean):
    mgr = await shared()
    head = "CREATE FUNCTION secret() RETURNS void LANGUAGE plpgsql AS "
    await run(mgr, BERN, f"{head} $$ BEGIN {body}; END $$")
    await run(mgr, BERN, "SELECT secret()")
    assert await run(mgr, BASEL, question) == clean


@in_loop
async def test_a_temporary_table_hides_no_table_of_another_customer(shared):
    mgr = await shared()
    await run(mgr, BERN, "CREATE TEMP TABLE documents AS SELECT 'stolen' AS owner")
    assert await owners(mgr, BASEL) == [BASEL]


@in_loop
async def test_the_last_value_of_a_sequence_is_not_told(shared):
    mgr = await shared()
    await run(mgr, BERN, "INSERT INTO documents (owner) VALUES ('towns-bern')")
    with pytest.raises(DBAPIError, match="lastval is not yet defined"):
        await run(mgr, BASEL, "SELECT lastval()")


@in_loop
async def test_notifications_reach_no_other_customer(shared):
    mgr, heard = await shared(), []
    async with mgr.schema(BERN) as session:
        connection = await raw(session)
        if hasattr(connection, "add_listener"):
            await connection.add_listener("gossip", lambda *args: heard.append(args))
        else:
            await session.execute(text("LISTEN gossip"))
            connection.add_notify_handler(heard.append)
    for _ in range(2):
        await run(mgr, BASEL, "SELECT pg_notify('gossip', 'secret')")
    assert heard == []


@in_loop
async def test_a_cleaned_connection_is_kept(shared):
    mgr = await shared()
    pids = set()
    for schema in (BERN, BASEL) * 2:
        await run(mgr, schema, "SET statement_timeout = '77s'")
        pids.add(await run(mgr, schema, "SELECT pg_backend_pid()"))
    assert len(pids) == 1


# -- the search path


@pytest.mark.parametrize(
    "move",
    [
        f'SET search_path TO "{BASEL}"',
        f'SET LOCAL search_path TO "{BASEL}"',
        f"SELECT set_config('search_path', '{BASEL}', false)",
        f"SELECT set_config('search_path', '{BASEL}', true)",
        "RESET search_path",
        "RESET ALL",
        f"UPDATE pg_settings SET setting = '{BASEL}' WHERE name = 'search_path'",
        f"DO $$ BEGIN PERFORM set_config('search_path', '{BASEL}', false); END $$",
    ],
)
@all_ways
@in_loop
async def test_a_path_that_was_moved_is_set_again(shared, move):
    mgr = await shared()
    async with mgr.schema(BERN) as session:
        await session.execute(text(move))
        assert (await session.scalars(OWNER)).all() == [BERN]
        session.add(Document(owner=f"{BERN} too"))
        await session.flush()
        await session.execute(text(move))
    assert await owners(mgr, BERN) == [BERN, f"{BERN} too"]
    assert await owners(mgr, BASEL) == [BASEL]
    async with mgr.engine.connect() as connection:
        assert await connection.scalar(text("SELECT current_schema()")) not in (BERN, BASEL)


@pytest.mark.parametrize("schema", [BERN, BASEL])
@all_ways
@in_loop
async def test_a_path_that_was_moved_by_a_stream(shared, schema):
    mgr = await shared()
    move = text(f"SELECT set_config('search_path', '{BASEL}', false)")
    async with mgr.schema(BERN) as session:
        result = await session.stream(move)
        assert await result.scalars().all() == [BASEL]
        assert (await session.scalars(OWNER)).all() == [BERN]
    assert await owners(mgr, schema) == [schema]


@all_ways
@in_loop
async def test_a_path_that_was_moved_by_the_driver(shared):
    mgr = await shared()
    for sql in (f'SET search_path TO "{BASEL}"', f'SET LOCAL search_path TO "{BASEL}"'):
        async with mgr.schema(BERN) as session:
            await execute_raw(session, sql)
            assert (await session.scalars(OWNER)).all() == [BERN]
    assert await owners(mgr, BASEL) == [BASEL]


@in_loop
async def test_a_function_that_moves_the_path_is_noticed_by_the_newest_server(
    newest, async_driver, new_async_manager, caplog
):
    name = newest.create()
    dsn = newest.server.dsn(name, driver=async_driver.partition("-")[0], tcp=False)
    mgr = await settle(new_async_manager(dsn, Base, pool_config=ONE_CONNECTION))
    await _make_moving_function(mgr)
    async with mgr.schema(BERN) as session:
        await session.execute(text("SELECT move()"))
        assert (await session.scalars(OWNER)).all() == [BERN]
    assert "was moved" in caplog.text
    strict = new_async_manager(dsn, Base, strict=True)
    with pytest.raises(SearchPathMoved):
        async with strict.schema(BERN) as session:
            await session.execute(text("SELECT move()"))
            await session.scalars(OWNER)
    assert await owners(strict, BASEL) == [BASEL]
    for manager in (mgr, strict):
        await manager.dispose()
    newest.drop(name)


async def _make_moving_function(mgr):
    body = f"BEGIN PERFORM set_config('search_path', '{BASEL}', false); END"
    await run(mgr, BERN, f"CREATE FUNCTION move() RETURNS void LANGUAGE plpgsql AS $$ {body} $$")


@all_ways
@in_loop
async def test_a_function_that_moves_the_path_for_good(shared):
    """The next customer sees nothing of it, on any server."""
    mgr = await shared()
    await _make_moving_function(mgr)
    await run(mgr, BERN, "SELECT move()")
    assert await owners(mgr, BERN) == [BERN]
    await run(mgr, BERN, "SELECT move()")
    await run(mgr, BERN, "SELECT move()")
    assert await owners(mgr, "towns-zug") == []


# -- transactions


@pytest.mark.parametrize(
    "sql",
    [
        "ROLLBACK; INSERT INTO documents (owner) VALUES ('towns-bern')",
        "COMMIT; INSERT INTO documents (owner) VALUES ('towns-bern')",
        "COMMIT; BEGIN; INSERT INTO documents (owner) VALUES ('towns-bern')",
        f'COMMIT; SET search_path TO "{BASEL}"',
    ],
)
@all_ways
@in_loop
async def test_a_text_that_ends_the_transaction_reaches_no_other_schema(shared, sql):
    mgr = await shared()
    await owners(mgr, BASEL)
    # Each driver has its own errors, and the commit may fail too.
    with contextlib.suppress(DBAPIError, asyncpg.PostgresError, psycopg.Error):
        async with mgr.schema(BERN) as session:
            await execute_raw(session, sql)
            assert await where(session) == BERN
    assert await owners(mgr, BASEL) == [BASEL]
    assert set(await owners(mgr, BERN)) == {BERN}
    async with mgr.engine.connect() as connection:
        assert await connection.scalar(text("SELECT current_schema()")) not in (BERN, BASEL)
    assert out(mgr) == 0


@all_ways
@in_loop
async def test_savepoints(shared):
    mgr = await shared()
    async with mgr.schema(BERN) as session:
        session.add(Document(owner="before"))
        savepoint = await session.begin_nested()
        session.add(Document(owner="lost"))
        await session.flush()
        await savepoint.rollback()
        assert await where(session) == BERN
        async with session.begin_nested():
            session.add(Document(owner="after"))
            async with session.begin_nested() as inner:
                session.add(Document(owner="lost too"))
                await session.flush()
                await inner.rollback()
            assert await where(session) == BERN
    assert await owners(mgr, BERN) == [BERN, "before", "after"]
    assert await owners(mgr, BASEL) == [BASEL]


@all_ways
@in_loop
async def test_a_savepoint_as_the_first_statement(shared):
    mgr = await shared()
    async with mgr.schema(BERN) as session:
        savepoint = await session.begin_nested()
        await savepoint.rollback()
        assert (await session.scalars(OWNER)).all() == [BERN]
    async with mgr.schema(BASEL) as session, session.begin_nested():
        assert (await session.scalars(OWNER)).all() == [BASEL]


@all_ways
@in_loop
async def test_a_savepoint_in_text(shared):
    mgr = await shared()
    async with mgr.schema(BERN) as session:
        for sql in ("SAVEPOINT mine", "INSERT INTO documents (owner) VALUES ('lost')"):
            await session.execute(text(sql))
        await session.execute(text("ROLLBACK TO SAVEPOINT mine"))
        assert (await session.scalars(OWNER)).all() == [BERN]


@all_ways
@in_loop
async def test_after_an_error_inside_a_savepoint(shared):
    mgr = await shared()
    async with mgr.schema(BERN) as session:
        with pytest.raises(DBAPIError):
            async with session.begin_nested():
                await session.execute(text("SELECT 1/0"))
        assert (await session.scalars(OWNER)).all() == [BERN]
    assert await owners(mgr, BASEL) == [BASEL]


@all_ways
@in_loop
async def test_a_failed_transaction_commits_nothing(shared):
    mgr = await shared()
    with pytest.raises(Exception, match=r"aborted|nothing was committed|rolled back"):
        async with mgr.schema(BERN) as session:
            await session.execute(text("INSERT INTO documents (owner) VALUES ('lost')"))
            with pytest.raises(DBAPIError):
                await session.execute(text("SELECT 1/0"))
    assert (await owners(mgr, BERN), out(mgr)) == ([BERN], 0)


@in_loop
async def test_a_session_goes_on_after_commit_and_rollback(shared):
    mgr = await shared()
    await mgr.set_current_schema(BERN)
    session = mgr.session()
    for end in (session.commit, session.rollback, session.commit):
        assert (await session.scalars(OWNER)).all() == [BERN]
        await end()
        assert out(mgr) == 0
        assert await owners(mgr, BASEL) == [BASEL]


@all_ways
@in_loop
async def test_autocommit(shared):
    mgr = await shared()
    for schema in (BERN, BASEL) * 2:
        engine = mgr.engine.execution_options(schema=schema, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            assert (await connection.scalars(OWNER)).first() == schema
            await connection.execute(text(f"INSERT INTO documents (owner) VALUES ('{schema}')"))
            await connection.execute(text("VACUUM documents"))
    assert await owners(mgr, BERN) == [BERN] * 3
    assert await owners(mgr, BASEL) == [BASEL] * 3
    async with mgr.engine.connect() as connection:
        assert await connection.scalar(text("SELECT current_schema()")) not in (BERN, BASEL)


@in_loop
async def test_traces_of_autocommit_are_removed(shared):
    mgr = await shared()
    bern = mgr.engine.execution_options(schema=BERN, isolation_level="AUTOCOMMIT")
    async with bern.connect() as connection:
        await connection.execute(text("CREATE TEMP TABLE documents AS SELECT 'stolen' AS owner"))
        await connection.execute(text("SELECT pg_advisory_lock(1)"))
    assert await owners(mgr, BASEL) == [BASEL]
    assert await run(mgr, BASEL, COUNT_LOCKS) == 0


@in_loop
async def test_a_connection_without_a_schema_sits_in_none(shared):
    mgr = await shared()
    await owners(mgr, BERN)
    async with mgr.engine.connect() as connection:
        with pytest.raises(DBAPIError, match="does not exist"):
            await connection.scalars(OWNER)
    async with mgr.engine.connect() as connection:
        with pytest.raises(DBAPIError, match=r"permission denied|no schema"):
            await connection.execute(text("CREATE TABLE mine (x int)"))


@in_loop
async def test_a_connection_that_was_killed_while_idle_costs_nothing(shared, outside, async_dsn):
    mgr = await shared()
    pid = await run(mgr, BERN, "SELECT pg_backend_pid()")
    outside(async_dsn)(f"SELECT pg_terminate_backend({pid}, 5000)")
    await asyncio.sleep(0)
    assert await owners(mgr, BERN) == [BERN]


@in_loop
async def test_a_connection_that_was_killed_in_a_transaction(shared, outside, async_dsn):
    mgr = await shared()
    with pytest.raises(DBAPIError):
        async with mgr.schema(BERN) as session:
            session.add(Document(owner="lost"))
            await session.flush()
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            outside(async_dsn)(f"SELECT pg_terminate_backend({pid}, 5000)")
            await session.scalars(OWNER)
    assert (await owners(mgr, BERN), out(mgr)) == ([BERN], 0)


@in_loop
async def test_a_connection_that_was_killed_before_the_commit(shared, outside, async_dsn):
    mgr = await shared()
    with pytest.raises(DBAPIError):
        async with mgr.schema(BERN) as session:
            session.add(Document(owner="lost"))
            await session.flush()
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            outside(async_dsn)(f"SELECT pg_terminate_backend({pid}, 5000)")
    assert (await owners(mgr, BERN), out(mgr)) == ([BERN], 0)


# -- cursors, many rows, COPY


@all_ways
@in_loop
async def test_streams(shared):
    mgr = await shared()
    query = sa.select(Document.owner).order_by(Document.id)
    for schema in (BERN, BASEL) * 2:
        async with mgr.schema(schema) as session:
            result = await session.stream(query)
            assert [row.owner async for row in result] == [schema]
            assert [owner async for owner in await session.stream_scalars(query)] == [schema]


@in_loop
async def test_a_stream_of_many_rows_beside_other_statements(shared):
    mgr = await shared()
    rows = "INSERT INTO documents (owner) SELECT 'x' FROM generate_series(1, 1000)"
    await run(mgr, BERN, rows)
    async with mgr.schema(BERN) as session:
        found = []
        result = await session.stream_scalars(
            sa.select(Document.owner), execution_options={"yield_per": 100}
        )
        async for owner in result:
            found.append(owner)
            if len(found) % 400 == 0:
                assert await where(session) == BERN
    assert len(found) == 1001


@pytest.mark.filterwarnings("ignore:.*deleted while still open:ResourceWarning")
@in_loop
async def test_a_stream_that_is_left_early(shared):
    mgr = await shared()
    await run(mgr, BERN, "INSERT INTO documents (owner) SELECT 'x' FROM generate_series(1, 500)")
    for _ in range(3):
        async with mgr.schema(BERN) as session:
            options = {"yield_per": 10}
            stream = await session.stream_scalars(
                sa.select(Document.owner), execution_options=options
            )
            assert await anext(stream) in (BERN, "x")
        assert await owners(mgr, BASEL) == [BASEL]
    assert out(mgr) == 0
    del stream
    gc.collect()


@pytest.mark.filterwarnings("ignore:.*deleted while still open:ResourceWarning")
@in_loop
async def test_a_stream_that_outlives_its_block_reads_nothing(shared):
    mgr = await shared()
    await run(mgr, BERN, "INSERT INTO documents (owner) SELECT 'x' FROM generate_series(1, 500)")
    async with mgr.schema(BERN) as session:
        options = {"yield_per": 10}
        stream = await session.stream_scalars(sa.select(Document.owner), execution_options=options)
        assert await anext(stream) == BERN
    async with mgr.schema(BASEL) as session:
        await session.scalars(OWNER)
        buffered = set()
        with pytest.raises((DBAPIError, ResourceClosedError, asyncpg.InterfaceError)):
            async for owner in stream:
                buffered.add(owner)
        assert buffered <= {"x"}
        assert (await session.scalars(OWNER)).all() == [BASEL]
    del stream
    gc.collect()


@all_ways
@in_loop
async def test_many_parameters(shared):
    mgr = await shared()
    insert = text("INSERT INTO documents (owner) VALUES (:owner)")
    for schema in (BERN, BASEL):
        async with mgr.schema(schema) as session:
            await session.execute(insert, [{"owner": schema}] * 20)
    assert await owners(mgr, BERN) == [BERN] * 21
    assert await owners(mgr, BASEL) == [BASEL] * 21


@in_loop
async def test_many_parameters_as_the_first_statement_after_an_error(shared):
    mgr = await shared()
    insert = text("INSERT INTO documents (id, owner) VALUES (:id, :owner)")
    for schema in (BERN, BASEL):
        with pytest.raises(DBAPIError):
            async with mgr.schema(schema) as session:
                await session.execute(insert, [{"id": 7, "owner": "x"}, {"id": 7, "owner": "x"}])
        assert await owners(mgr, schema) == [schema]


@in_loop
async def test_copy_by_the_drivers_connection(shared):
    mgr = await shared()
    for schema in (BERN, BASEL):
        async with mgr.schema(schema) as session:
            await copy_in(await raw(session), schema)
        async with mgr.schema(schema) as session:
            assert await copy_out(await raw(session)) == f"{schema}\n{schema}\n"
    assert await owners(mgr, BERN) == [BERN, BERN]


async def copy_in(connection, owner):
    if hasattr(connection, "copy_records_to_table"):
        await connection.copy_records_to_table("documents", records=[(owner,)], columns=["owner"])
        return
    async with connection.cursor().copy("COPY documents (owner) FROM STDIN") as copy:
        await copy.write_row((owner,))


async def copy_out(connection):
    query, parts = "SELECT owner FROM documents ORDER BY id", []
    if hasattr(connection, "copy_from_query"):

        async def keep(data):
            parts.append(bytes(data))

        await connection.copy_from_query(query, output=keep)
    else:
        async with connection.cursor().copy(f"COPY ({query}) TO STDOUT") as copy:
            parts.extend([bytes(part) async for part in copy])
    return b"".join(parts).decode()


@in_loop
async def test_asyncpgs_own_ways_to_fetch(shared, async_driver):
    mgr = await shared()
    for schema in (BERN, BASEL) * 2:
        async with mgr.schema(schema) as session:
            await session.execute(text("SELECT 1"))
            connection = await raw(session)
            if not hasattr(connection, "fetchval"):
                cursor = await connection.execute("SELECT owner FROM documents")
                assert await cursor.fetchall() == [(schema,)]
                continue
            query = "SELECT owner FROM documents WHERE owner <> $1"
            assert await connection.fetchval(query, "x") == schema
            assert [row["owner"] for row in await connection.fetch(query, "x")] == [schema]
            assert (await connection.fetchrow(query, "x"))["owner"] == schema
            await connection.executemany(
                "INSERT INTO documents (owner) VALUES ($1)", [("y",), ("z",)]
            )
            async with connection.transaction():
                assert await connection.fetchval("SELECT current_schema()") == schema
            statement = await connection.prepare(query)
            assert [row["owner"] async for row in statement.cursor("x")] == [schema, "y", "z"]
            await session.rollback()


@in_loop
async def test_the_drivers_connection_is_useless_after_its_block(shared):
    """Statements on it never run in the schema of the customer who has it then."""
    mgr = await shared()
    async with mgr.schema(BERN) as session:
        connection = await raw(session)
    async with mgr.schema(BASEL) as session:
        await session.scalars(OWNER)
        assert await where(session) == BASEL
    with pytest.raises((asyncpg.PostgresError, psycopg.Error), match="documents"):
        await connection.execute("INSERT INTO documents (owner) VALUES ('stray')")
    assert (await owners(mgr, BERN), await owners(mgr, BASEL)) == ([BERN], [BASEL])


# -- two phases


@all_ways
@in_loop
async def test_two_phases(shared):
    mgr = await shared(session_config={"twophase": True})
    async with mgr.schema(BERN) as session:
        session.add(Document(owner="two phases"))
    assert (await owners(mgr, BERN))[-1] == "two phases"
    with pytest.raises(ZeroDivisionError):
        async with mgr.schema(BERN) as session:
            session.add(Document(owner="lost"))
            await session.flush()
            raise ZeroDivisionError
    assert (await owners(mgr, BERN))[-1] == "two phases"
    assert await owners(mgr, BASEL) == [BASEL]
    assert await run(mgr, BERN, "SELECT count(*) FROM pg_prepared_xacts") == 0
    assert out(mgr) == 0


@all_ways
@in_loop
async def test_a_commit_in_two_phases_by_hand(shared):
    mgr = await shared()
    for schema in (BERN, BASEL) * 2:
        engine = mgr.engine.execution_options(schema=schema)
        async with engine.connect() as connection:
            transaction = await connection.run_sync(lambda sync: sync.begin_twophase())
            await connection.execute(text(f"INSERT INTO documents (owner) VALUES ('{schema}')"))
            await connection.run_sync(lambda sync, one=transaction: one.prepare())
            await connection.run_sync(lambda sync, one=transaction: one.commit())
    assert await owners(mgr, BERN) == [BERN] * 3
    assert await owners(mgr, BASEL) == [BASEL] * 3


# -- engines and sessions of the caller's own


@in_loop
async def test_a_registered_engine_switches_like_the_managers_own(shared, async_dsn):
    mgr = await shared()
    engine = create_async_engine(async_dsn)
    mgr.register_engine(engine)
    for schema in (BERN, BASEL) * 2:
        async with engine.execution_options(schema=schema).connect() as connection:
            assert (await connection.scalars(OWNER)).all() == [schema]
    await engine.dispose()


@in_loop
async def test_connections_from_before_the_registration_are_refused(shared, async_dsn):
    mgr = await shared()
    engine = create_async_engine(async_dsn)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    mgr.register_engine(engine)
    with pytest.raises(ConfigurationError, match="dispose"):
        async with engine.execution_options(schema=BERN).connect() as connection:
            await connection.execute(text("SELECT 1"))
    await engine.dispose()


@in_loop
async def test_a_session_of_the_callers_can_be_bound(shared):
    mgr = await shared()
    await mgr.set_current_schema(BERN)
    async with mgr.bind_session(AsyncSession()) as session:
        assert session.info == {"schema": BERN}
        assert (await session.scalars(OWNER)).all() == [BERN]
        await mgr.set_current_schema(BASEL)
        with pytest.raises(ConfigurationError, match="in use"):
            mgr.bind_session(session)
        await session.close()
        assert (await mgr.bind_session(session).scalars(OWNER)).all() == [BASEL]


@in_loop
async def test_a_registered_factory_announces(shared):
    mgr, heard = await shared(), []
    mgr.on_insert.connect(lambda schema, obj: heard.append((schema, obj.owner)), weak=False)
    mgr.on_commit.connect(lambda schema, changes: heard.append(len(changes)), weak=False)
    factory = async_sessionmaker()
    mgr.register_session(factory)
    await mgr.set_current_schema(BERN)
    async with mgr.bind_session(factory()) as session:
        session.add(Document(owner="ada"))
        await session.commit()
    assert heard == [(BERN, "ada"), 1]
    assert factory.kw["sync_session_class"] is not Session


@in_loop
async def test_the_factory_makes_sessions_of_the_current_schema(shared):
    mgr = await shared()
    for schema in (BERN, BASEL):
        await mgr.set_current_schema(schema)
        async with mgr.session_factory() as session:
            assert session.info == {"schema": schema}
            assert (await session.scalars(OWNER)).all() == [schema]


@in_loop
async def test_sessions_side_by_side_on_different_connections(async_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_dsn, Base))
    await mgr.set_current_schema(BERN)
    bern = mgr.session()
    await mgr.set_current_schema(BASEL)
    basel = mgr.session()
    for session, schema in itertools.islice(itertools.cycle([(bern, BERN), (basel, BASEL)]), 6):
        assert (await session.scalars(OWNER)).all() == [schema]
    assert out(mgr) == 2
