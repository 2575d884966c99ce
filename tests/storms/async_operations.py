"""The steps of a storm of tasks: those of `operations` that make sense there, and its own.

Its own ones are coroutine functions. They go to the drivers' own methods, where most can go
wrong, and to what only tasks have: children, siblings, cancellation and streams.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from sqlalchemy import exc, insert, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import greenlet_spawn

from onegov_orm.errors import ReadOnlySession
from tests.models import Document
from tests.storms import operations
from tests.storms.async_storm import AsyncStorm, AsyncWorker, leaf_of
from tests.storms.customers import (
    GUEST,
    ForeignRow,
    StormFailure,
    UnexpectedError,
    WrongPath,
    check_owner,
    check_path,
    check_rows,
    check_traces,
    name_of,
    number,
)
from tests.storms.operations import DRIVER_ERRORS, PATH, RECENT, TRACES, insert_sql, row, some_move
from tests.storms.storm import Operation, sqlstate

READ_ONLY: Final = "25006"
LOCK_NOT_AVAILABLE: Final = "55P03"

#: These use a synchronous driver, or the synchronous manager; here are others in their place.
_SYNCHRONOUS: Final = {
    "move_path_by_driver",
    "move_path_by_foreign_cursor",
    "use_driver_cursor",
    "use_foreign_cursor",
    "copy_rows",
    "use_pipeline",
    "use_late_cursor",
    "work_in_blocks",
    "attempt",
    "make_table",
    "take_raw_connection",
    "kill_idle_backend",
}

#: After these, what is announced and what is committed may differ.
_INEXACT: Final = {
    "end_transaction_in_text",
    "begin_again_in_text",
    "lose_savepoint_in_text",
    "shadow_table",
    "change_schema_of_connection",
}

#: Many small steps, and a few big ones, make a storm denser than big ones alone.
_WEIGHTS: Final = {
    "read_text": 80,
    "read_path": 60,
    "insert_text": 40,
    "commit": 50,
    "roll_back": 25,
    "move_to_another_customer": 70,
    "keep_setting": 12,
    "take_lock": 12,
}

#: With less, an operation might not have its turn in a storm.
_LEAST_WEIGHT: Final = 3

ASYNC_OPERATIONS: Final[list[Operation]] = []

Run = Callable[[AsyncWorker], Any]


def is_possible_at(found: Operation, storm: Any) -> bool:
    """Tell whether an operation that was made for threads has a place in a storm of tasks."""
    if storm.weather.exact and found.name in _INEXACT:
        return False
    return found.is_possible(storm)


def operation(weight: int = 2, when: Callable[[Any], bool] = lambda storm: True) -> Any:
    """Make a coroutine function one of the operations of a storm of tasks."""

    def register(run: Run) -> Run:
        ASYNC_OPERATIONS.append(Operation(run, max(weight, _LEAST_WEIGHT), when))
        return run

    return register


def uses_asyncpg(storm: AsyncStorm) -> bool:
    return storm.driver == "asyncpg"


def uses_psycopg(storm: AsyncStorm) -> bool:
    return storm.driver == "psycopg"


def has_ledger(storm: AsyncStorm) -> bool:
    return storm.weather.exact


# -- helpers


async def check_session(worker: AsyncWorker, session: AsyncSession | None = None) -> None:
    """Check that the session is where it has to be, for reading and for writing."""
    session = session or await worker.open()
    if worker.chance(0.5):
        check_path(worker.schema, *(await session.execute(text(PATH))).one())
    if worker.chance(0.5):
        check_rows(worker.schema, await session.execute(text(insert_sql(worker.schema))))
    check_rows(worker.schema, await session.execute(text(RECENT)))


async def begun_driver(worker: AsyncWorker) -> Any:
    """Return the connection of the driver's, in a transaction of the session's."""
    session = await worker.open()
    check_path(worker.schema, *(await session.execute(text(PATH))).one())
    return await driver_of(session)


async def driver_of(session: AsyncSession) -> Any:
    proxy = await (await session.connection()).get_raw_connection()
    return proxy.driver_connection


# -- reading and writing


@operation(40)
async def read_rows(worker: AsyncWorker) -> None:
    session = await worker.open()
    check_rows(worker.schema, await session.execute(text(RECENT)))


@operation(12)
async def work_in_block(worker: AsyncWorker) -> None:
    """The request loop."""
    await worker.leave()
    async with worker.manager.schema(worker.schema) as session:
        session.add(Document(**row(worker.schema)))
        check_rows(worker.schema, await session.execute(text(RECENT)))


@operation(4)
async def execute_many(worker: AsyncWorker) -> None:
    session = await worker.open()
    await session.execute(
        text("INSERT INTO documents (owner, title) VALUES (:owner, :title)"),
        [{"owner": worker.schema, "title": "many"}] * 3,
    )


@operation(2)
async def insert_objects_in_bulk(worker: AsyncWorker) -> None:
    session = await worker.open()
    rows = [row(worker.schema) for _ in range(2)]
    if worker.chance(0.5):
        statement = insert(Document).returning(Document)
        for document in await session.scalars(statement, rows):
            check_owner(worker.schema, document.owner)
    else:
        await session.run_sync(lambda sync: sync.bulk_insert_mappings(Document, rows))


@operation(3)
async def stream_rows(worker: AsyncWorker) -> None:
    """Rows that come while other things happen, and are not read to the end."""
    session = await worker.open()
    query = select(Document.id, Document.owner).execution_options(yield_per=2)
    result = await session.stream(query)
    async for found in result:
        check_rows(worker.schema, [found])
        if worker.chance(0.3):
            break
        if worker.chance(0.2):
            await asyncio.sleep(0)
    if worker.chance(0.5):
        await result.close()


@operation(2)
async def nest_later(worker: AsyncWorker) -> None:
    session = await worker.open()
    with suppress(ZeroDivisionError):
        async with session.begin_nested():
            session.add(Document(**row(worker.schema)))
            await session.flush()
            if worker.chance(0.5) and not worker.storm.is_strict:
                move = some_move(worker, worker.victim, stays_in_transaction=True)
                await session.run_sync(lambda sync: operations.execute(sync, move))
            await check_session(worker, session)
            if worker.chance(0.5):
                raise ZeroDivisionError
    await check_session(worker, session)


# -- the drivers' own methods


@operation(3, when=uses_asyncpg)
async def use_asyncpg(worker: AsyncWorker) -> None:
    driver, schema = await begun_driver(worker), worker.schema
    check_rows(schema, await driver.fetch(insert_sql(schema)))
    check_rows(schema, [await driver.fetchrow(f"{RECENT.replace('10', '1')}") or (0, schema)][:0])
    sql = "INSERT INTO documents (owner) VALUES ($1)"
    await driver.execute(sql, schema)
    await driver.executemany(sql, [(schema,)] * 2)
    statement = await driver.prepare(RECENT)
    check_rows(schema, await statement.fetch())
    check_rows(schema, [found async for found in statement.cursor()])


@operation(2, when=uses_asyncpg)
async def copy_by_asyncpg(worker: AsyncWorker) -> None:
    driver, schema = await begun_driver(worker), worker.schema
    await driver.copy_records_to_table("documents", records=[(schema,)] * 2, columns=["owner"])
    source = io.BytesIO(f"{schema}\n".encode())
    await driver.copy_to_table("documents", source=source, columns=["owner"])
    found = io.BytesIO()
    await driver.copy_from_query(RECENT, output=found)
    lines = found.getvalue().decode().splitlines()
    check_rows(schema, [(int(key), owner) for key, owner in operations._fields(lines)])


@operation(2, when=uses_asyncpg)
async def nest_by_asyncpg(worker: AsyncWorker) -> None:
    """A block of asyncpg's is a savepoint in the session's transaction."""
    driver = await begun_driver(worker)
    with suppress(ZeroDivisionError):
        async with driver.transaction():
            check_rows(worker.schema, await driver.fetch(insert_sql(worker.schema)))
            if worker.chance(0.5):
                raise ZeroDivisionError
    check_path(worker.schema, *await driver.fetchrow(PATH))


@operation(2)
async def move_path_by_connection(worker: AsyncWorker) -> None:
    """Nobody but the driver sees it."""
    await greenlet_spawn(worker.close_unread)
    driver = await begun_driver(worker)
    move = some_move(worker, worker.victim)
    await driver.execute(move)
    session = await worker.open()
    await session.run_sync(lambda _: operations.expect_moved(worker))
    await check_session(worker)


@operation(1, when=lambda storm: not storm.weather.exact)
async def end_transaction_by_driver(worker: AsyncWorker) -> None:
    await greenlet_spawn(worker.close_unread)
    driver = await begun_driver(worker)
    end = worker.note(worker.one_of(("ROLLBACK", "COMMIT", "END", "ROLLBACK AND CHAIN")))
    with worker.finds_no_table():
        await driver.execute(f"{end}; {insert_sql(worker.schema)}")
    if end.endswith("CHAIN"):
        await worker.end_by("rollback")
    await check_session(worker)


@operation(2)
async def leave_traces_by_driver(worker: AsyncWorker) -> None:
    """What the session's next statement does not show, and the next customer must not see."""
    driver, schema = await begun_driver(worker), worker.schema
    traces = [
        f"SET storm.owner TO '{schema}'",
        f"SELECT set_config('storm.owner', '{schema}', false)",
        f"SELECT pg_advisory_lock_shared({number(schema)})",
        f"SELECT pg_try_advisory_lock_shared({number(schema)})",
    ]
    if not worker.storm.weather.exact:
        table = "documents (LIKE documents INCLUDING DEFAULTS)"
        traces.append(f"CREATE TEMP TABLE IF NOT EXISTS {table}")
    await driver.execute(worker.note(worker.one_of(traces)))
    if worker.chance(0.5):
        await worker.finish()
        worker.schema = worker.other if not worker.is_tight else worker.schema


@operation(1, when=uses_asyncpg)
async def listen_by_asyncpg(worker: AsyncWorker) -> None:
    driver, schema = await begun_driver(worker), worker.schema
    heard: list[str] = []
    channel = name_of("channel", schema)
    await driver.add_listener(channel, lambda *message: heard.append(message[-1]))
    await driver.execute(f"NOTIFY {channel}, '{schema}'")
    await worker.end_by("commit")
    for owner in filter(None, heard):
        check_owner(schema, owner)


@operation(1, when=uses_asyncpg)
async def use_late_statement(worker: AsyncWorker) -> None:
    """A statement that was kept when its connection went back to the pool is of no use."""
    driver, schema = await begun_driver(worker), worker.schema
    statement = await driver.prepare(RECENT)
    await worker.finish()
    worker.schema = worker.other
    if worker.chance(0.5):
        await check_session(worker)
    with suppress(*DRIVER_ERRORS):
        check_rows(schema, await statement.fetch())
        raise ForeignRow("a statement worked on a connection that may be somebody else's")
    await worker.recover_later()


@operation(3, when=uses_psycopg)
async def use_psycopg(worker: AsyncWorker) -> None:
    driver, schema = await begun_driver(worker), worker.schema
    async with driver.cursor() as cursor:
        await cursor.execute(insert_sql(schema))
        check_rows(schema, await cursor.fetchall())
        await cursor.executemany("INSERT INTO documents (owner) VALUES (%s)", [(schema,)] * 2)
        check_rows(schema, [found async for found in cursor.stream(RECENT)])
    async with driver.cursor("storm_by_driver") as cursor:
        await cursor.execute(RECENT)
        check_rows(schema, await cursor.fetchmany(2))


@operation(2, when=uses_psycopg)
async def copy_by_psycopg(worker: AsyncWorker) -> None:
    driver, schema = await begun_driver(worker), worker.schema
    async with driver.cursor() as cursor:
        async with cursor.copy("COPY documents (owner) FROM STDIN") as copy:
            await copy.write_row((schema,))
        async with cursor.copy(f"COPY ({RECENT}) TO STDOUT") as copy:
            rows = [found async for found in copy.rows()]
    check_rows(schema, [(int(key), owner) for key, owner in rows])


@operation(2, when=uses_psycopg)
async def use_pipeline_later(worker: AsyncWorker) -> None:
    driver = await begun_driver(worker)
    is_moved = worker.chance(0.3) and not worker.storm.is_strict
    async with driver.pipeline():
        if is_moved:
            await driver.execute(f'SET LOCAL search_path TO "{worker.victim}"')
        cursor = await driver.execute(insert_sql(worker.schema))
        check_rows(worker.schema, await cursor.fetchall())
    await check_session(worker)


@operation(1, when=uses_psycopg)
async def use_late_cursor_later(worker: AsyncWorker) -> None:
    """A cursor that was kept when its connection went back to the pool is of no use."""
    driver, schema = await begun_driver(worker), worker.schema
    cursor = driver.cursor()
    await cursor.execute(RECENT)
    await worker.finish()
    worker.schema = worker.other
    if worker.chance(0.5):
        await check_session(worker)
    with suppress(*DRIVER_ERRORS):
        await cursor.execute(insert_sql(schema))
        raise ForeignRow("a cursor worked on a connection that may be somebody else's")
    await cursor.close()
    await check_session(worker)


# -- readers


async def write_in_vain(worker: AsyncWorker, reader: AsyncSession) -> None:
    """Try to write by a session that reads, in some way."""

    async def by_object() -> None:
        reader.add(Document(**row(worker.schema)))
        await reader.flush()

    async def by_driver() -> None:
        await (await driver_of(reader)).execute(insert_sql(worker.schema))

    ways: tuple[Callable[[], Any], ...] = (
        by_object,
        by_driver,
        partial(reader.execute, insert(Document), [row(worker.schema)]),
        partial(reader.execute, text(insert_sql(worker.schema))),
        partial(reader.execute, text("SET TRANSACTION READ WRITE")),
    )
    way = worker.one_of(ways)
    try:
        await way()
    except ReadOnlySession:
        pass
    except Exception as error:
        if sqlstate(error) != READ_ONLY:
            raise
    else:
        raise UnexpectedError(f"a reading session wrote: {way}")
    await reader.rollback()


@operation(3)
async def read_beside_writer(worker: AsyncWorker) -> None:
    await worker.leave()
    async with worker.manager.schema(worker.schema) as session:
        reader = worker.manager.reader()
        if not worker.is_tight:
            check_rows(worker.schema, await session.execute(text(insert_sql(worker.schema))))
        check_rows(worker.schema, await reader.execute(text(RECENT)))
        if worker.chance(0.5):
            await write_in_vain(worker, reader)
            check_path(worker.schema, *(await reader.execute(text(PATH))).one())
        await reader.rollback()
        check_rows(worker.schema, await session.execute(text(insert_sql(worker.schema))))


@operation(2)
async def read_only(worker: AsyncWorker) -> None:
    await worker.finish()
    # Who wants a snapshot that can't fail, waits for all who write.
    deferrable = worker.chance(0.1) and worker.storm.weather.workers == 1 and worker.depth == 0
    if deferrable:
        # A cancellation may have left some of these, and nobody else would end them.
        worker.storm.watch.finish()
    options = {"deferrable": True} if deferrable else {"readonly": True}
    async with worker.manager.schema(worker.schema, **options) as session:
        check_rows(worker.schema, await session.execute(text(RECENT)))
        if worker.chance(0.5):
            await write_in_vain(worker, session)
            check_rows(worker.schema, await session.execute(text(RECENT)))


# -- blocks and attempts


@operation(3)
async def nest_blocks(worker: AsyncWorker) -> None:
    """A block inside a block: each on its own, and all as before in the end."""
    await worker.leave()
    manager, outer, inner = worker.manager, worker.schema, worker.other
    before = manager.current_schema
    async with manager.schema(outer) as session:
        if not worker.is_tight:
            check_rows(outer, await session.execute(text(insert_sql(outer))))
        with suppress(ZeroDivisionError):
            async with manager.schema(inner) as inner_session:
                check_path(inner, *(await inner_session.execute(text(PATH))).one())
                check_rows(inner, await inner_session.execute(text(insert_sql(inner))))
                if worker.chance(0.3):
                    raise ZeroDivisionError
        if manager.current_schema != outer or manager.session() is not session:
            raise WrongPath("the block inside changed what is current outside")
        check_rows(outer, await session.execute(text(insert_sql(outer))))
    if manager.current_schema != before:
        raise WrongPath(f"after the block, {manager.current_schema} is current, not {before}")


@operation(2)
async def try_again(worker: AsyncWorker) -> None:
    """The first attempt fails for a reason that goes away."""
    await worker.finish()
    await worker.open()
    fails = worker.chance(0.3)
    async for tried in worker.manager.attempts():
        async with tried as session:
            check_rows(worker.schema, await session.execute(text(insert_sql(worker.schema))))
            session.add(Document(**row(worker.schema)))
            await session.flush()
            if fails and tried.number == 1:
                failure = "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$"
                await session.execute(text(failure))


@operation(3)
async def be_cancelled_in_block(worker: AsyncWorker) -> None:
    """The connection is as good as any afterwards, or is not used any more."""
    await worker.finish()
    limit = asyncio.timeout(None)
    with suppress(TimeoutError):
        async with limit, worker.manager.schema(worker.schema) as session:
            # This outlives the rollback, other than a setting.
            await session.execute(text(f"PREPARE {name_of('plan', worker.schema)} AS {RECENT}"))
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()
    worker.schema = worker.other
    async with worker.manager.schema(worker.schema) as session:
        check_traces(worker.schema, (await session.execute(text(TRACES))).one())


# -- children


@operation(3)
async def have_children(worker: AsyncWorker) -> None:
    """Tasks in a task: they start where it is, and take nothing from each other."""
    if worker.depth > 1:
        return
    await worker.finish()
    await worker.open()
    if worker.chance(0.5):
        await live_together(worker)
    else:
        async with worker.manager.schema(worker.schema):
            await live_together(worker)
    await check_session(worker)


async def live_together(worker: AsyncWorker) -> None:
    """Have children, and wait for them."""
    before = worker.manager.current_schema
    sessions = [worker.manager.session()]
    children = [worker.child() for _ in range(worker.one_of((2, 3)))]
    fails = worker.chance(0.2)

    async def live(child: AsyncWorker) -> None:
        if worker.manager.current_schema != before:
            raise WrongPath(f"a child starts at {worker.manager.current_schema}, not {before}")
        own = worker.manager.session()
        if any(own is other for other in sessions):
            raise WrongPath("two tasks have one session")
        sessions.append(own)
        await child.work(worker.one_of((1, 2)))
        if fails and child is children[0]:
            raise ZeroDivisionError

    if worker.chance(0.5):
        done = await asyncio.gather(*map(live, children), return_exceptions=True)
        failures = [leaf_of(each) for each in done if isinstance(each, BaseException)]
    else:
        failures = await in_group(worker, live, children)
    for failure in failures:
        if not isinstance(failure, (ZeroDivisionError, asyncio.CancelledError)):
            raise failure
    if worker.manager.current_schema != before:
        raise WrongPath(f"children moved their parent to {worker.manager.current_schema}")


async def in_group(
    worker: AsyncWorker, live: Any, children: list[AsyncWorker]
) -> list[BaseException]:
    """Have children in a group, where the failure of one cancels the others."""
    task: Any = asyncio.current_task()
    before = task.cancelling()
    try:
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(live(child))
    except BaseExceptionGroup as errors:
        # Before Python 3.13, a group that has errors forgets that it was cancelled itself.
        is_cancelled = worker.is_cancelled() and not isinstance(leaf_of(errors), StormFailure)
        while task.cancelling() > before + is_cancelled:
            task.uncancel()
        if is_cancelled:
            raise asyncio.CancelledError from errors
        return [leaf_of(errors)]
    return []


@operation(2)
async def gather_over_schemas(worker: AsyncWorker) -> None:
    await worker.finish()

    async def count(schema: str) -> tuple[str, Any]:
        async with worker.manager.schema(schema) as session:
            return schema, (await session.execute(text(RECENT))).all()

    schemas = [worker.other for _ in range(4)]
    for found in await asyncio.gather(*map(count, schemas), return_exceptions=True):
        if isinstance(found, BaseException):
            raise found
        check_rows(*found)


# -- tables that change, and customers that come


@operation(2)
async def change_table(worker: AsyncWorker) -> None:
    """The table of one customer becomes another one."""
    await worker.finish()
    kind = f"'t{number(worker.schema)}'"
    ways = (
        f"ALTER TABLE traits ALTER COLUMN kind TYPE text USING {kind}",
        f"ALTER TABLE traits ALTER COLUMN kind TYPE int USING {number(worker.schema)}",
        f"ALTER TABLE traits ADD COLUMN IF NOT EXISTS extra text DEFAULT '{worker.schema}'",
        "ALTER TABLE traits DROP COLUMN IF EXISTS extra",
    )
    with worker.may_fail(LOCK_NOT_AVAILABLE):
        async with worker.manager.schema(worker.schema) as session:
            await session.execute(text("SET LOCAL lock_timeout TO '30ms'"))
            await session.execute(text(worker.note(worker.one_of(ways))))


@operation(30)
async def read_changing_table(worker: AsyncWorker) -> None:
    session, schema = await worker.open(), worker.schema
    query = "SELECT * FROM traits WHERE owner = CAST(:owner AS text) OR owner <> :other LIMIT 3"
    found = await session.execute(text(query), {"owner": schema, "other": "nobody"})
    for each in found.mappings():
        check_owner(schema, each["owner"])
        check_owner(schema, each.get("extra", schema))
        if each["kind"] not in (number(schema), f"t{number(schema)}"):
            raise ForeignRow(f"{schema} met a trait of another one: {dict(each)}")


@operation(20)
async def read_by_enum(worker: AsyncWorker) -> None:
    """The enum of each customer is a type of its own, in parameters and in columns."""
    session, schema = await worker.open(), worker.schema
    query = select(Document.owner, Document.color).where(Document.color == row(schema)["color"])
    for owner, color in await session.execute(query.limit(2)):
        check_owner(schema, owner)
        if color is not row(schema)["color"]:
            raise UnexpectedError(f"a color became {color!r}")


@operation(1)
async def welcome_guest(worker: AsyncWorker) -> None:
    """A new customer comes, by several doors at once."""
    await worker.finish()
    guest = f"{GUEST}{next(worker.storm.guests, worker.one_of(range(8)))}"

    async def enter() -> None:
        async with worker.manager.schema(guest) as session:
            check_path(guest, *(await session.execute(text(PATH))).one())
            check_rows(guest, await session.execute(text(insert_sql(guest))))

    for found in await asyncio.gather(*(enter() for _ in range(3)), return_exceptions=True):
        if isinstance(found, BaseException):
            raise found


# -- hooks


@operation(4, when=has_ledger)
async def hook(worker: AsyncWorker) -> None:
    """Post-processing runs once, in the way that the transaction ended."""
    ledger: Any = worker.storm.ledger
    if worker.chance(0.5):
        await hook_into(worker, ledger, await worker.open())
        return
    await worker.leave()
    with suppress(ZeroDivisionError):
        async with worker.manager.schema(worker.schema) as session:
            await hook_into(worker, ledger, session)
            if worker.chance(0.3):
                raise ZeroDivisionError


async def hook_into(worker: AsyncWorker, ledger: Any, session: AsyncSession) -> None:
    document = Document(**row(worker.schema))
    session.add(document)
    await session.flush()
    token = len(ledger.ends)
    ends = ledger.ends[token] = []
    ledger.documents[token] = document.id

    def note(end: str, fails: bool) -> None:
        ends.append(end)
        if fails:
            ledger.expected_errors += 1
            raise ZeroDivisionError

    async def note_later(end: str, fails: bool) -> None:
        await asyncio.sleep(0)
        note(end, fails)

    chosen: Any = worker.one_of((note, note_later))
    worker.manager.after_commit(partial(chosen, "commit", worker.chance(0.2)))
    worker.manager.after_abort(partial(chosen, "abort", worker.chance(0.2)))


# -- connections past the session


@operation(2)
async def take_connection_later(worker: AsyncWorker) -> None:
    """A connection of the driver's, straight from the engine, is nobody's."""
    await worker.leave()
    connection = await worker.manager.engine.raw_connection()
    try:
        driver = connection.driver_connection
        if worker.storm.driver == "asyncpg":
            traces = await driver.fetchrow(TRACES)
        else:
            traces = await (await driver.execute(TRACES)).fetchone()
        check_traces(None, traces)
        if worker.chance(0.3):
            await driver.execute(f'SET search_path TO "{worker.schema}"')
    finally:
        await greenlet_spawn(connection.close)


@operation(1, when=lambda storm: storm.weather.kills and storm.weather.workers == 1)
async def find_dead_connection(worker: AsyncWorker) -> None:
    """A connection that was closed while it idled costs no request."""
    await worker.finish()
    if worker.depth == 0:
        await asyncio.to_thread(worker.storm.killer.kill)
        try:
            await check_session(worker)
        except exc.DBAPIError as error:
            raise UnexpectedError(f"it cost a request: {error}") from error


ASYNC_OPERATIONS.extend(
    replace(
        found,
        weight=_WEIGHTS.get(found.name, max(found.weight, _LEAST_WEIGHT)),
        is_possible=partial(is_possible_at, found),
    )
    for found in operations.OPERATIONS
    if found.name not in _SYNCHRONOUS
)

__all__ = ["ASYNC_OPERATIONS"]
