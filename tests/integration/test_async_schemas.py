"""Which schema and which session a task has, and what goes away with the task."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import tracemalloc
import weakref

import pytest
from sqlalchemy import text

from onegov_orm import AsyncSessionManager, SessionManager
from onegov_orm.errors import (
    ConfigurationError,
    InvalidSchemaName,
    NoCurrentSchema,
    SchemaNotFound,
    UnsupportedDatabase,
)
from tests.asynchronous import (
    BASEL,
    BERN,
    ONE_CONNECTION,
    in_loop,
    out,
    owners,
    run_tidily,
    settle,
    statements_of,
    until,
    where,
)
from tests.models import Base, Document

# -- the schema of a task


@in_loop
async def test_none_at_first(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base)
    assert mgr.current_schema is None
    for ask in (mgr.session, mgr.reader, mgr.session_factory):
        with pytest.raises(NoCurrentSchema, match="set_current_schema"):
            ask()
    assert out(mgr) == 0


@in_loop
async def test_a_session_belongs_to_its_schema(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    await mgr.set_current_schema(BERN)
    session = mgr.session()
    assert session is mgr.session()
    assert session.info == {"schema": BERN}
    await mgr.set_current_schema(BASEL)
    assert mgr.session() is not session
    assert (await where(session), await where(mgr.session())) == (BERN, BASEL)


@in_loop
async def test_nothing_is_connected_before_the_first_statement(async_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_dsn, Base))
    with statements_of(mgr) as sent:
        async with mgr.schema(BERN) as session:
            session.add(Document(owner=BERN))
            reader = mgr.reader()
            assert (out(mgr), sent) == (0, [])
            session.expunge_all()
        assert (out(mgr), sent) == (0, [])
    assert reader.info == {"schema": BERN}


@in_loop
async def test_a_known_schema_costs_no_statement(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    with statements_of(mgr) as sent:
        await mgr.set_current_schema(BERN)
        await mgr.set_current_schema(BERN, create=False)
        await mgr.ensure_schema_exists(BERN)
    assert sent == []


@in_loop
async def test_a_child_task_inherits_the_schema_and_no_session(async_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_dsn, Base))

    async def child():
        session = mgr.session()
        return mgr.current_schema, session, await where(session)

    await mgr.set_current_schema(BERN)
    found = [await asyncio.create_task(child()) for _ in range(2)]
    assert [(schema, place) for schema, _session, place in found] == [(BERN, BERN)] * 2
    sessions = [mgr.session(), *(session for _schema, session, _place in found)]
    assert len({id(session.sync_session) for session in sessions}) == 3


@in_loop
async def test_children_inside_a_block_share_no_session(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    async def child():
        session, reader = mgr.session(), mgr.reader()
        assert await where(session) == BERN
        return session.sync_session, reader.sync_session

    async with mgr.schema(BERN) as session:
        found = [*await asyncio.gather(child(), child())]
        found.append((session.sync_session, mgr.reader().sync_session))
        assert len({id(each) for pair in found for each in pair}) == 6


@in_loop
async def test_a_child_changes_no_schema_of_its_parent(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    async def child():
        await mgr.set_current_schema(BASEL)
        return await where(mgr.session())

    await mgr.set_current_schema(BERN)
    assert await asyncio.create_task(child()) == BASEL
    assert (mgr.current_schema, await where(mgr.session())) == (BERN, BERN)


@in_loop
async def test_a_child_that_outlives_its_parents_block(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    over = asyncio.Event()

    async def child():
        await over.wait()
        return mgr.current_schema, await where(mgr.session())

    async with mgr.schema(BERN):
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
    over.set()
    assert await task == (BERN, BERN)


@in_loop
async def test_gather_over_schemas(async_dsn, new_async_manager):
    pool = {"pool_size": 3, "max_overflow": 0, "pool_timeout": 30}
    mgr = new_async_manager(async_dsn, Base, pool_config=pool)
    names = [f"towns-{number}" for number in range(5)]
    await settle(mgr, *names)

    async def work(name):
        async with mgr.schema(name) as session:
            before = await where(session)
            await asyncio.sleep(0)
            found = list(await session.scalars(text("SELECT owner FROM documents")))
            return before, found, mgr.current_schema

    results = await asyncio.gather(*(work(name) for name in names * 6))
    assert results == [(name, [name], name) for name in names * 6]
    assert (out(mgr), mgr.current_schema) == (0, None)


@in_loop
async def test_a_thousand_tasks_over_a_pool_of_ten(async_plain_dsn, new_async_manager):
    pool = {"pool_size": 10, "max_overflow": 0, "pool_timeout": 60}
    mgr = new_async_manager(async_plain_dsn, Base, pool_config=pool)
    names = [f"towns-{number}" for number in range(10)]
    await settle(mgr, *names)

    async def work(name):
        async with mgr.schema(name) as session:
            return list(await session.scalars(text("SELECT owner FROM documents")))

    results = await asyncio.gather(*(work(names[number % 10]) for number in range(1000)))
    assert results == [[names[number % 10]] for number in range(1000)]
    assert out(mgr) == 0


# -- blocks


@in_loop
async def test_nested_blocks(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    await mgr.set_current_schema(BERN)
    with pytest.raises(ZeroDivisionError):
        async with mgr.schema(BASEL) as outer:
            outer.add(Document(owner="aborted"))
            async with mgr.schema(BASEL) as inner:
                assert inner is not outer
                inner.add(Document(owner="committed"))
            assert await where(outer) == BASEL
            raise ZeroDivisionError
    assert (mgr.current_schema, await where(mgr.session())) == (BERN, BERN)
    assert await owners(mgr, BASEL) == [BASEL, "committed"]


@in_loop
async def test_a_block_of_another_schema_inside_a_block(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    async with mgr.schema(BERN) as bern:
        assert await where(bern) == BERN
        async with mgr.schema(BASEL) as basel:
            assert [await where(session) for session in (basel, bern)] == [BASEL, BERN]
        assert await where(mgr.session()) == BERN
        assert mgr.session() is bern


@in_loop
async def test_a_block_as_a_decorator(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    @mgr.schema(BASEL)
    async def work(number):
        return number, mgr.current_schema, await where(mgr.session())

    assert [await work(1), await work(2)] == [(1, BASEL, BASEL), (2, BASEL, BASEL)]
    assert mgr.current_schema is None


@in_loop
async def test_a_decorated_function_runs_many_times_at_once(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    @mgr.schema(BASEL)
    async def work():
        return await where(mgr.session()), id(mgr.session().sync_session)

    found = await asyncio.gather(*(work() for _ in range(5)))
    assert [place for place, _key in found] == [BASEL] * 5


@in_loop
async def test_a_block_undoes_what_was_made_current_inside(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    async with mgr.schema(BERN):
        await mgr.set_current_schema(BASEL)
        assert await where(mgr.session()) == BASEL
    assert (mgr.current_schema, out(mgr)) == (None, 0)


@in_loop
async def test_a_generator_that_holds_a_block_is_closed_by_another_task(
    async_plain_dsn, new_async_manager
):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    async def rows():
        async with mgr.schema(BERN) as session:
            session.add(Document(owner="half"))
            await session.flush()
            yield await where(session)

    async def first(generator):
        return await anext(generator)

    generator = rows()
    assert await asyncio.create_task(first(generator)) == BERN
    async with mgr.schema(BASEL) as session:
        await generator.aclose()
        assert (mgr.current_schema, await where(session)) == (BASEL, BASEL)
    assert (await owners(mgr, BERN), out(mgr)) == ([BERN], 0)


@in_loop
async def test_the_unit_is_not_the_generators_consumers(async_plain_dsn, new_async_manager):
    """A generator runs in its consumer's context, which sees the block's schema meanwhile."""
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    async def rows():
        async with mgr.schema(BERN) as session:
            for _ in range(2):
                yield await where(session)

    assert [place async for place in rows()] == [BERN, BERN]
    assert (mgr.current_schema, out(mgr)) == (None, 0)


# -- what bad input gets


@pytest.mark.parametrize("name", ["Bad", "pg_x", "public", "a--b", "a\n", 7, None, b"towns"])
@in_loop
async def test_a_bad_name_reaches_no_server(name):
    mgr = AsyncSessionManager("postgresql+asyncpg://nobody@127.0.0.1:1/nothing", Base)
    for refused in (
        mgr.set_current_schema(name),
        mgr.ensure_schema_exists(name),
        mgr.create_schema(name),
        mgr.schema(name).__aenter__(),
    ):
        with pytest.raises(InvalidSchemaName):
            await refused
    assert mgr.current_schema is None


@in_loop
async def test_an_unknown_schema_is_not_created_on_request_only(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Base)
    await mgr.set_current_schema(BERN)
    for refused in (
        mgr.set_current_schema("towns-none", create=False),
        mgr.schema("towns-none", create=False).__aenter__(),
        mgr.schema("towns-none", readonly=True).__aenter__(),
    ):
        with pytest.raises(SchemaNotFound):
            await refused
    assert mgr.current_schema == BERN
    assert await mgr.list_schemas() == [BERN]
    assert out(mgr) == 0


@pytest.mark.parametrize(
    ("manager", "dsn", "told"),
    [
        (AsyncSessionManager, "postgresql+psycopg2://h/d", "needs the SessionManager"),
        (SessionManager, "postgresql+asyncpg://h/d", "needs the AsyncSessionManager"),
        (AsyncSessionManager, "postgresql+pg8000://h/d", "pg8000 is not supported"),
        (AsyncSessionManager, "sqlite+aiosqlite://", "only PostgreSQL"),
    ],
)
def test_a_driver_of_the_wrong_kind_is_refused(manager, dsn, told):
    with pytest.raises(UnsupportedDatabase, match=told):
        manager(dsn, Base)


@pytest.mark.parametrize(
    ("dsn", "driver"),
    [
        ("postgresql://h/d", "asyncpg"),
        ("postgres://h/d", "asyncpg"),
        ("postgresql+psycopg://h/d", "psycopg"),
        ("postgresql+psycopg_async://h/d", "psycopg"),
    ],
)
def test_the_driver_of_a_url(dsn, driver):
    mgr = AsyncSessionManager(dsn, Base)
    assert (mgr.engine.dialect.driver, mgr.engine.dialect.is_async) == (driver, True)


def test_options_of_the_transaction_package_are_not_for_tasks():
    with pytest.raises(TypeError):
        AsyncSessionManager("postgresql://h/d", Base, transaction_manager=None)


@pytest.mark.parametrize("option", ["async_creator_fn", "connection_class"])
@in_loop
async def test_connections_of_another_class_are_refused(
    async_plain_dsn, new_async_manager, option
):
    config = {"connect_args": {option: object}}
    mgr = new_async_manager(async_plain_dsn, Base, engine_config=config)
    with pytest.raises(ConfigurationError, match="class of its own"):
        await mgr.set_current_schema(BERN)


def test_synchronous_users_need_neither_greenlet_nor_asyncio_drivers():
    code = (
        "import sys\n"
        "for name in ('greenlet', 'asyncpg', 'psycopg'): sys.modules[name] = None\n"
        "import onegov_orm\n"
        "from tests.models import Base\n"
        "onegov_orm.SessionManager('postgresql://h/d', Base)\n"
        "print(onegov_orm.SessionManager.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("SessionManager", "")


# -- locales, the active manager, switches


@in_loop
async def test_locales_and_the_active_manager_are_the_tasks_own(
    async_plain_dsn, new_async_manager
):
    one, other = (new_async_manager(async_plain_dsn, Base) for _ in range(2))

    async def child(locale, mgr):
        before = one.current_locale, AsyncSessionManager.get_active()
        one.current_locale = locale
        mgr.activate()
        await asyncio.sleep(0)
        return before, one.current_locale, AsyncSessionManager.get_active()

    one.set_locale("de_CH", "fr_CH")
    one.activate()
    found = await asyncio.gather(child("it_CH", one), child("rm_CH", other))
    assert found == [(("fr_CH", one), "it_CH", one), (("fr_CH", one), "rm_CH", other)]
    assert (one.current_locale, AsyncSessionManager.get_active()) == ("fr_CH", one)


@in_loop
async def test_switches_are_the_tasks_own(async_plain_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))
    heard, silent = [], asyncio.Event()
    mgr.on_insert.connect(lambda schema, obj: heard.append(obj.owner), weak=False)

    async def loud():
        await silent.wait()
        async with mgr.schema(BERN) as session:
            session.add(Document(owner="loud"))

    task = asyncio.create_task(loud())
    async with mgr.schema(BERN) as session, mgr.disable_change_signals():
        session.add(Document(owner="silent"))
        silent.set()
        await task
    assert heard == ["loud"]


# -- what goes away


@in_loop
async def test_the_connection_of_a_task_that_ended_goes_back(async_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_dsn, Base))

    async def careless():
        await mgr.set_current_schema(BERN)
        mgr.session().add(Document(owner="lost"))
        await mgr.session().flush()
        await where(mgr.reader())
        return weakref.ref(mgr.session().sync_session)

    session = await asyncio.create_task(careless())
    await until(lambda: out(mgr) == 0)
    gc.collect()
    assert session() is None
    assert await owners(mgr, BERN) == [BERN]


@in_loop
async def test_the_connection_of_a_task_that_was_cancelled_goes_back(
    async_plain_dsn, new_async_manager
):
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    async def careless():
        await mgr.set_current_schema(BERN)
        await where(mgr.session())
        await asyncio.Event().wait()

    task = asyncio.create_task(careless())
    await until(lambda: out(mgr) == 1)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await until(lambda: out(mgr) == 0)


@in_loop
async def test_a_task_that_ended_on_a_dead_connection(async_dsn, new_async_manager, outside):
    """Nobody waits for the end of its session: what fails there is not raised anywhere."""
    mgr = await settle(new_async_manager(async_dsn, Base))

    async def careless():
        await mgr.set_current_schema(BERN)
        pid = await mgr.session().scalar(text("SELECT pg_backend_pid()"))
        outside(async_dsn)(f"SELECT pg_terminate_backend({pid}, 5000)")

    await asyncio.create_task(careless())
    await until(lambda: out(mgr) == 0)
    assert await owners(mgr, BERN) == [BERN]


@pytest.mark.filterwarnings("ignore:.*deleted while still open:ResourceWarning")
def test_a_main_that_leaves_its_session_open(async_dsn):
    """The loop ends before anything can be given back; only the driver may complain."""

    async def main():
        mgr = AsyncSessionManager(async_dsn, Base)
        await mgr.set_current_schema(BERN)
        mgr.session().add(Document(owner="lost"))
        await mgr.session().flush()
        await where(mgr.reader())

    async def afterwards():
        mgr = AsyncSessionManager(async_dsn, Base)
        assert await owners(mgr, BERN) == []
        await mgr.dispose()

    for _ in range(2):
        run_tidily(main)
        gc.collect()
    run_tidily(afterwards)


def test_a_main_that_disposes_with_its_session_open(async_plain_dsn):
    async def main():
        mgr = AsyncSessionManager(async_plain_dsn, Base)
        await mgr.set_current_schema(BERN)
        await where(mgr.session())
        await where(mgr.reader())
        await mgr.dispose()

    run_tidily(main)
    gc.collect()


def test_one_manager_for_each_of_several_runs(async_plain_dsn):
    async def main():
        mgr = AsyncSessionManager(async_plain_dsn, Base)
        async with mgr.schema(BERN) as session:
            session.add(Document(owner=BERN))
        found = await owners(mgr, BERN)
        await mgr.dispose()
        return found

    assert [len(asyncio.run(main())) for _ in range(4)] == [1, 2, 3, 4]


@in_loop
async def test_dispose_closes_everything_even_an_exhausted_pool(
    async_dsn, new_async_manager, outside
):
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))
    task = asyncio.create_task(_hold(mgr))
    await until(lambda: out(mgr) == 1)
    await asyncio.sleep(0.01)
    await mgr.dispose()
    execute = outside(async_dsn)
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    await until(lambda: execute(count) == [(0,)])
    task.cancel()
    await asyncio.wait([task])
    assert await owners(mgr, BERN) == [BERN]


async def _hold(mgr):
    async with mgr.schema(BERN) as session:
        await session.execute(text("SELECT 1"))
        await asyncio.Event().wait()


@in_loop
async def test_memory_stays_flat_over_many_tasks(async_plain_dsn, new_async_manager, caplog):
    caplog.set_level(logging.ERROR, "onegov_orm")
    mgr = await settle(new_async_manager(async_plain_dsn, Base))

    async def work():
        await mgr.set_current_schema(BERN)
        await where(mgr.session())
        async with mgr.schema(BASEL) as session:
            await where(session)

    async def serve(number):
        for _ in range(number):
            await asyncio.create_task(work())

    await serve(50)
    gc.collect()
    tracemalloc.start()
    await serve(150)
    gc.collect()
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 150_000
    assert len(mgr._scopes._tasks) <= 2


@in_loop
async def test_a_manager_that_is_let_go_takes_nothing_along(async_plain_dsn, new_async_manager):
    mgr = AsyncSessionManager(async_plain_dsn, Base)
    await settle(mgr)
    await mgr.dispose()
    reference = weakref.ref(mgr)
    del mgr
    gc.collect()
    assert reference() is None
