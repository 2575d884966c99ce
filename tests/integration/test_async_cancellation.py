"""A cancellation at any await leaves clean connections, and whole transactions or none."""

from __future__ import annotations

import asyncio
import gc

import pytest
import sqlalchemy as sa
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from tests.asynchronous import (
    BASEL,
    BERN,
    ONE_CONNECTION,
    in_loop,
    out,
    owners,
    run,
    settle,
    until,
    where,
)
from tests.cancelling import AFTER, BEFORE, TWICE, cancelled_everywhere
from tests.models import Base, Document, Page

ways = pytest.mark.parametrize("way", [BEFORE, AFTER, TWICE])


class Book:
    """What is told of commits and aborts: the owners of each."""

    def __init__(self, mgr):
        self.mgr = mgr
        self.announced, self.committed, self.aborted = [], [], []

        @mgr.on_commit.connect
        async def note(schema, changes):
            await asyncio.sleep(0)
            self.announced.extend(change.obj.owner for change in changes)

        self._note = note

    def expect(self, owner):
        """Write down how the current transaction ends."""
        self.mgr.after_abort(lambda: self.aborted.append(owner))

        @self.mgr.after_commit
        async def wait():
            await asyncio.sleep(0)
            self.committed.append(owner)

    async def check(self):
        """What is committed is announced, once, and nothing else is."""
        assert out(self.mgr) == 0
        found = [owner for owner in await owners(self.mgr, BERN) if owner != BERN]
        assert found == self.announced == self.committed
        assert not set(self.aborted) & set(found)
        assert await owners(self.mgr, BASEL) == [BASEL]
        assert out(self.mgr) == 0


async def explore(work, way, check, step=1):
    """Cancel the work everywhere; return how often it was cancelled, and not."""
    cancelled = finished = 0
    async for is_cancelled in cancelled_everywhere(work, way, step):
        cancelled, finished = cancelled + is_cancelled, finished + (not is_cancelled)
        await check()
    assert finished
    return cancelled, finished


# -- at every await


@ways
@in_loop
async def test_a_unit_of_work(async_dsn, new_async_manager, way):
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)

    async def work(number):
        try:
            async with mgr.schema(BERN) as session:
                book.expect(str(number))
                document = Document(owner=str(number))
                session.add(document)
                await session.flush()
                async with session.begin_nested():
                    session.add(Page(text=BERN, document=document))
                assert (await session.scalars(sa.select(Page.text).limit(1))).all() == [BERN]
        finally:
            assert mgr.current_schema is None

    cancelled, _ = await explore(work, way, book.check)
    assert cancelled > 5


@ways
@in_loop
async def test_two_schemas_in_turn(async_dsn, new_async_manager, way):
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)

    async def work(number):
        for schema in (BASEL, BERN):
            async with mgr.schema(schema) as session:
                query = text("SELECT owner FROM documents WHERE owner LIKE 'towns%'")
                assert (await session.scalars(query)).all() == [schema]

    await explore(work, way, book.check)


@ways
@in_loop
async def test_a_session_outside_a_block(async_plain_dsn, new_async_manager, way, caplog):
    mgr = await settle(new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)

    async def work(number):
        await mgr.set_current_schema(BERN)
        book.expect(str(number))
        mgr.session().add(Document(owner=str(number)))
        await mgr.session().commit()
        assert await where(mgr.session()) == BERN
        await mgr.session().rollback()

    async def check():
        await until(lambda: out(mgr) == 0)
        await book.check()

    await explore(work, way, check)


@ways
@in_loop
async def test_a_block_that_fails(async_plain_dsn, new_async_manager, way):
    """The cancellation comes in the middle of the rollback too."""
    mgr = await settle(new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)

    async def work(number):
        try:
            async with mgr.schema(BERN) as session:
                book.expect(str(number))
                session.add(Document(owner=str(number)))
                await session.flush()
                raise ZeroDivisionError
        except ZeroDivisionError:
            return "failed"

    await explore(work, way, book.check)
    assert book.announced == []


@ways
@in_loop
async def test_a_statement_that_fails(async_plain_dsn, new_async_manager, way):
    mgr = await settle(new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)

    async def work(number):
        try:
            async with mgr.schema(BERN) as session:
                book.expect(str(number))
                session.add(Document(owner=str(number)))
                await session.flush()
                await session.execute(text("SELECT 1/0"))
        except DBAPIError:
            return "failed"

    await explore(work, way, book.check)


@ways
@in_loop
async def test_attempts(async_plain_dsn, new_async_manager, way):
    mgr = await settle(new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)
    raised = "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$"

    async def work(number):
        async with mgr.schema(BERN):
            async for attempt in mgr.attempts(2):
                async with attempt as session:
                    book.expect(str(number))
                    session.add(Document(owner=str(number)))
                    await session.flush()
                    if attempt.number == 1:
                        await session.execute(text(raised))

    async def check():
        book.aborted.clear()
        await book.check()

    await explore(work, way, check)


@pytest.mark.filterwarnings("ignore:.*deleted while still open:ResourceWarning")
@ways
@in_loop
async def test_many_rows_and_streams(async_plain_dsn, new_async_manager, way):
    mgr = await settle(new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION))
    fill = "INSERT INTO pages (document_id, text) SELECT 1, 'x' FROM generate_series(1, 200)"
    await run(mgr, BERN, fill)
    book = Book(mgr)

    async def work(number):
        async with mgr.schema(BERN) as session:
            insert = text("INSERT INTO pages (document_id, text) VALUES (1, :text)")
            await session.execute(insert, [{"text": "y"}, {"text": "z"}])
            stream = await session.stream_scalars(
                sa.select(Page.text).limit(150), execution_options={"yield_per": 50}
            )
            try:
                assert len([each async for each in stream]) == 150
            finally:
                await stream.close()

    await explore(work, way, book.check)
    # What the driver warns of is collected here, and in no other test.
    gc.collect()


@ways
@in_loop
async def test_a_copy_of_psycopg(database, databases, new_async_manager, way):
    """The driver's own calls: SQLAlchemy does not hear of their cancellation."""
    dsn = databases.server.dsn(database, driver="psycopg", tcp=False)
    mgr = await settle(new_async_manager(dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)

    async def work(number):
        async with mgr.schema(BERN) as session:
            raw = await (await session.connection()).get_raw_connection()
            try:
                cursor = raw.driver_connection.cursor()
                async with cursor, cursor.copy("COPY documents (owner) FROM STDIN") as copy:
                    await copy.write_row(("copied",))
            finally:
                await session.rollback()

    await explore(work, way, book.check)


@in_loop
async def test_a_copy_that_began_before_its_cancellation_came(
    database, databases, new_async_manager, monkeypatch
):
    dsn = databases.server.dsn(database, driver="psycopg", tcp=False)
    mgr = await settle(new_async_manager(dsn, Base, pool_config=ONE_CONNECTION))

    async def come_too_late(connection, **kwargs):
        await asyncio.sleep(0.1)

    monkeypatch.setattr("psycopg.AsyncConnection._try_cancel", come_too_late)
    async with mgr.schema(BERN) as session:
        raw = await (await session.connection()).get_raw_connection()
        async with raw.driver_connection.cursor() as cursor:
            await cursor.execute("SELECT 1")

            async def copy():
                async with cursor.copy("COPY documents (owner) FROM STDIN"):
                    raise AssertionError("it was cancelled")

            task = asyncio.create_task(copy())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await session.rollback()
        assert await where(session) == BERN
    assert await owners(mgr, BERN) == [BERN]


@ways
@in_loop
async def test_cleaning_between_customers(async_plain_dsn, new_async_manager, way):
    """What needs a message of its own when the connection is given back."""
    mgr = await settle(new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)
    traces = "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"

    async def work(number):
        async with mgr.schema(BERN) as session:
            await session.execute(text("SET statement_timeout = '77s'"))
            await session.execute(text("CREATE TEMP TABLE documents AS SELECT 'x' AS owner"))
            await session.execute(text("SELECT pg_advisory_lock(1)"))

    async def check():
        await book.check()
        assert await run(mgr, BASEL, "SHOW statement_timeout") == "0"
        assert await run(mgr, BASEL, traces) == 0

    await explore(work, way, check)


@ways
@in_loop
async def test_connecting(async_plain_dsn, new_async_manager, outside, way):
    """No connection is left on the server that nobody knows of."""
    mgr = await settle(
        new_async_manager(async_plain_dsn, Base, pool_config={"poolclass": NullPool})
    )
    count = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    execute = outside(async_plain_dsn)

    async def work(number):
        async with mgr.schema(BERN) as session:
            assert (await session.scalars(sa.select(Document.owner))).all() == [BERN]

    async def check():
        assert mgr._holders.list() == []
        gc.collect()
        await until(lambda: execute(count) == [(0,)])

    await explore(work, way, check, step=2)
    assert await owners(mgr, BASEL) == [BASEL]


@ways
@in_loop
async def test_the_first_connection_of_an_engine(async_plain_dsn, new_async_manager, way):
    """What is asked once for each engine is asked again if it was cancelled."""
    await settle(new_async_manager(async_plain_dsn, Base))

    async def work(number):
        mgr = new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION)
        try:
            async with mgr.schema(BERN) as session:
                assert await where(session) == BERN
        finally:
            managers.append(mgr)

    async def check():
        mgr = managers.pop() if managers else None
        if mgr is not None:
            assert out(mgr) == 0
            assert await owners(mgr, BERN) == [BERN]
            await mgr.dispose()

    managers = []
    await explore(work, way, check, step=3)


@ways
@in_loop
async def test_provisioning(async_plain_dsn, new_async_manager, outside, way):
    mgr = await settle(new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION))
    execute = outside(async_plain_dsn)
    parts = (
        "SELECT to_regnamespace('{0}') IS NOT NULL, count(*) FROM pg_class"
        " WHERE relnamespace = to_regnamespace('{0}')"
    )
    whole = execute(parts.format(f'"{BERN}"'))
    names = []

    @mgr.on_schema_init.connect
    async def fill(schema, connection):
        await asyncio.sleep(0)

    async def work(number):
        names.append(f"new{number}")
        await mgr.set_current_schema(names[-1])
        assert mgr.current_schema == names[-1]

    async def check():
        assert out(mgr) == 0
        assert execute(parts.format(names[-1])) in (whole, [(False, 0)])
        if len(names) % 5 == 0:
            assert await owners(mgr, names[-1]) == []
            assert execute(parts.format(names[-1])) == whole

    await explore(work, way, check)
    assert await owners(mgr, BASEL) == [BASEL]


@ways
@in_loop
async def test_waiting_for_the_pool(async_plain_dsn, new_async_manager, way):
    mgr = await settle(new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION))

    async def work(number):
        async with mgr.schema(BERN) as session:
            assert await where(session) == BERN

    async def hold():
        """Let the work begin when there is nothing left in the pool."""
        async with mgr.schema(BASEL) as session:
            assert await where(session) == BASEL
            begun.set()
            for _ in range(20):
                await asyncio.sleep(0)

    async def held(number):
        begun.clear()
        holders.append(asyncio.create_task(hold()))
        await begun.wait()
        await work(number)

    async def check():
        await asyncio.wait(holders)
        assert out(mgr) == 0
        assert await owners(mgr, BERN) == [BERN]

    begun, holders = asyncio.Event(), []
    await explore(held, way, check)


# -- in the ways that happen


@in_loop
async def test_a_timeout(async_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), mgr.schema(BERN) as session:
            book.expect("lost")
            session.add(Document(owner="lost"))
            await session.flush()
            await session.execute(text("SELECT pg_sleep(60)"))
    assert book.aborted == ["lost"]
    await book.check()


@in_loop
async def test_a_timeout_in_the_middle_of_a_commit(async_dsn, new_async_manager):
    """The commit is on its way: it is finished and announced, and then the timeout comes."""
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))
    book = Book(mgr)
    slow = (
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$"
    )
    await run(mgr, BERN, slow)
    trigger = (
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON documents DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    await run(mgr, BERN, trigger)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.25), mgr.schema(BERN) as session:
            book.expect("kept")
            session.add(Document(owner="kept"))
    assert book.committed == ["kept"]
    await book.check()


@in_loop
async def test_a_cancellation_in_the_middle_of_post_processing(async_dsn, new_async_manager):
    mgr, ran = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION)), []
    started = asyncio.Event()

    async def work():
        async with mgr.schema(BERN) as session:
            await session.execute(text("SELECT 1"))

            @mgr.after_commit
            async def first():
                started.set()
                await asyncio.sleep(0.05)
                assert await owners(mgr, BASEL) == [BASEL]
                ran.append("first")

            mgr.after_commit(lambda: ran.append("second"))

    task = asyncio.create_task(work())
    await started.wait()
    for _ in range(5):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    assert (task.cancelled(), ran, out(mgr)) == (True, ["first", "second"], 0)


@in_loop
async def test_a_task_group_that_fails(async_dsn, new_async_manager):
    pool = {"pool_size": 3, "max_overflow": 0, "pool_timeout": 30}
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=pool))
    book = Book(mgr)

    async def member(number):
        async with mgr.schema(BERN) as session:
            session.add(Document(owner=str(number)))
            await session.flush()
            await session.execute(text("SELECT pg_sleep(60)"))

    async def fail():
        async with mgr.schema(BASEL) as session:
            await session.execute(text("SELECT 1/0"))

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(member(number))
            await until(lambda: out(mgr) == 3)
            group.create_task(fail())
            raise ZeroDivisionError
    await book.check()


@in_loop
async def test_a_gather_that_is_cancelled(async_dsn, new_async_manager):
    pool = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 30}
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=pool))

    async def member(schema):
        async with mgr.schema(schema) as session:
            await session.execute(text("SELECT pg_sleep(60)"))

    everything = asyncio.gather(*(member(schema) for schema in (BERN, BASEL) * 4))
    await until(lambda: out(mgr) == 2)
    everything.cancel()
    with pytest.raises(asyncio.CancelledError):
        await everything
    await until(lambda: out(mgr) == 0)
    assert [await owners(mgr, schema) for schema in (BERN, BASEL)] == [[BERN], [BASEL]]


@in_loop
async def test_a_client_that_goes_away_at_any_moment(async_dsn, new_async_manager):
    """Cancelled after so many turns of the loop, among tasks of other customers."""
    pool = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 30}
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=pool))
    book = Book(mgr)

    async def work(number):
        schema = (BERN, BASEL)[number % 2]
        async with mgr.schema(schema) as session:
            query = text("SELECT owner FROM documents WHERE owner LIKE 'towns%'")
            assert (await session.scalars(query)).all() == [schema]
            if schema == BERN:
                book.expect(str(number))
                session.add(Document(owner=str(number)))

    for turns in range(0, 120, 6):
        tasks = [asyncio.create_task(work(turns * 10 + number)) for number in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks[:3]:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, (asyncio.CancelledError, DBAPIError))
    book.announced.sort(), book.committed.sort()
    assert out(mgr) == 0
    found = sorted(owner for owner in await owners(mgr, BERN) if owner != BERN)
    assert found == book.announced == book.committed
    assert len(found) > 10


@in_loop
async def test_a_cancelled_task_that_goes_on(async_dsn, new_async_manager):
    """Who catches the cancellation can work on, in the schema from before."""
    mgr = await settle(new_async_manager(async_dsn, Base, pool_config=ONE_CONNECTION))

    async def work():
        try:
            async with mgr.schema(BERN) as session:
                await session.execute(text("SELECT pg_sleep(60)"))
        except asyncio.CancelledError:
            async with mgr.schema(BASEL) as session:
                return await where(session), mgr.current_schema

    task = asyncio.create_task(work())
    await until(lambda: out(mgr) == 1)
    await asyncio.sleep(0.05)
    task.cancel()
    assert await task == (BASEL, BASEL)


@in_loop
async def test_a_cancelled_child_leaves_its_parents_block_alone(async_dsn, new_async_manager):
    mgr = await settle(new_async_manager(async_dsn, Base))

    async def child():
        await mgr.session().execute(text("SELECT pg_sleep(60)"))

    async with mgr.schema(BERN) as session:
        session.add(Document(owner="parent"))
        await session.flush()
        task = asyncio.create_task(child())
        await until(lambda: out(mgr) == 2)
        task.cancel()
        await asyncio.wait([task])
        assert await where(session) == BERN
        await until(lambda: out(mgr) == 1)
    assert await owners(mgr, BERN) == [BERN, "parent"]
    assert out(mgr) == 0


@in_loop
async def test_nothing_is_left_when_tasks_are_forgotten(async_plain_dsn, new_async_manager):
    """No warnings of destroyed tasks or errors that nobody took, when all is collected."""
    mgr = await settle(new_async_manager(async_plain_dsn, Base, pool_config=ONE_CONNECTION))

    async def work():
        async with mgr.schema(BERN) as session:
            await session.execute(text("SELECT pg_sleep(60)"))

    for _ in range(3):
        task = asyncio.create_task(work())
        await until(lambda: out(mgr) == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        del task
        gc.collect()
    assert await owners(mgr, BERN) == [BERN]


def test_a_loop_that_is_stopped_by_the_keyboard(async_plain_dsn):
    """As asyncio.run does it on Ctrl-C: the main task is cancelled, and the commit finished."""
    from onegov_orm import AsyncSessionManager  # not by the fixture, which needs in_loop

    told = []

    async def main():
        mgr = AsyncSessionManager(async_plain_dsn, Base)
        mgr.on_commit.connect(lambda schema, changes: told.append(schema), weak=False)
        await settle(mgr)
        task = asyncio.current_task()
        try:
            async with mgr.schema(BERN) as session:
                session.add(Document(owner="last"))
                await session.flush()
                asyncio.get_running_loop().call_soon(task.cancel)
        finally:
            told.append(await owners(mgr, BERN))
            await mgr.dispose()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert told[-2:] == [BERN, [BERN, "last"]]
