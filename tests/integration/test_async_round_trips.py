"""How often an asynchronous request goes to the server, counted on the wire: exact numbers.

Each count of the library stands beside that of bare SQLAlchemy on one fixed schema with the
same driver, measured in the same test on the same server through the same proxy.
"""

from __future__ import annotations

import asyncio
import enum
import io
import itertools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Enum, MetaData, event, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.asynchronous import fixed_async_engine
from benchmarks.contestants import REQUESTS
from benchmarks.models import Account, Entry, RequestBase
from benchmarks.wire import WireProxy
from onegov_orm import AsyncSessionManager
from tests.conftest import ASYNC_DRIVERS, PIPELINE

BERN, BASEL = "towns-bern", "towns-basel"

#: What bare SQLAlchemy takes with any driver.
BARE = {"write": 5, "read": 3}

#: psycopg 3 prepares a statement when it is executed for the sixth time, by a message more.
WARM_UP = 8

Operation = Callable[[AsyncSession], Awaitable[Any]]


class TicketBase(DeclarativeBase):
    metadata = MetaData()


class State(enum.Enum):
    OPEN = "open"
    CLOSED = "closed"


class Ticket(TicketBase):
    """Has a column of a type that each customer has for itself."""

    __tablename__ = "tickets"

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[State] = mapped_column(Enum(State, name="ticket_state"))


@dataclass
class Wire:
    """The same database for the library and for bare SQLAlchemy, through one proxy."""

    proxy: WireProxy
    dsn: str
    is_pipeline: bool
    runner: asyncio.Runner
    open: list[Any] = field(default_factory=list)

    def manager(self) -> AsyncSessionManager:
        """A manager with one connection, to which the schemas are known."""
        pool = {"pool_size": 1, "max_overflow": 0}
        manager = AsyncSessionManager(
            self.dsn, RequestBase, pool_config=pool, pipeline=self.is_pipeline
        )
        manager.bases.append(TicketBase)
        self.open.append(manager)
        self.runner.run(visit(manager))
        return manager

    def dispose(self) -> None:
        while self.open:
            self.runner.run(self.open.pop().dispose())

    def bare(self, schema: str = BERN) -> Callable[[], AsyncSession]:
        """Bare SQLAlchemy, in one schema for good."""
        engine = fixed_async_engine(self.dsn, schema, pool_size=1, max_overflow=0)
        self.open.append(engine)
        return async_sessionmaker(engine)

    def count(self, work: Callable[[], Awaitable[Any]], warm_up: int = WARM_UP) -> int:
        """How often the work goes to the server, by default when everything is warm."""

        async def counted() -> int:
            for _ in range(warm_up):
                await work()
            self.proxy.reset()
            await work()
            return self.proxy.snapshot().round_trips

        return self.runner.run(counted())

    def promised(self, bare: int, transactions: int = 1) -> int:
        """The contract: no more than bare, and one less for each with a pipeline."""
        return bare - self.is_pipeline * transactions


async def visit(manager: AsyncSessionManager) -> None:
    for name in (BASEL, BERN):
        await manager.ensure_schema_exists(name)
        async with manager.schema(name) as session:
            if await session.get(Account, 1) is None:
                session.add_all([Account(id=1, name="first"), Ticket(state=State.OPEN)])


@pytest.fixture(
    scope="module",
    params=itertools.product(("newest", "older"), (*ASYNC_DRIVERS, PIPELINE)),
    ids="-".join,
)
def line(request: pytest.FixtureRequest) -> Iterator[Wire]:
    """Each driver on each server, over TCP through a proxy."""
    name, kind = request.param
    databases = request.getfixturevalue(name)
    database, server = databases.create(), databases.server
    with WireProxy("127.0.0.1", server.port) as proxy, asyncio.Runner() as runner:
        url = server.dsn(database, driver=kind.partition("-")[0], tcp=True)
        yield Wire(proxy, proxy.dsn(url), kind == PIPELINE, runner)
    databases.drop(database)


@pytest.fixture
def wire(line: Wire) -> Iterator[Wire]:
    """The same for one test, whose connections are its own."""
    yield line
    line.dispose()


@pytest.fixture(params=REQUESTS, ids=lambda each: each.name)
def served(request: pytest.FixtureRequest) -> Any:
    """A writing and a reading request."""
    return request.param


def serve(make: Callable[[], AsyncSession], served: Any) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        async with make() as session:
            await served.work_async(session, 1)
            if served.writes:
                await session.commit()

    return work


def serve_current(manager: AsyncSessionManager, served: Any) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        await manager.set_current_schema(BERN)
        await serve(manager.session, served)()

    return work


def serve_block(manager: Any, operation: Operation, schema: str = BERN) -> Any:
    async def work() -> None:
        async with manager.schema(schema) as session:
            await operation(session)

    return work


def requested(served: Any) -> Operation:
    return lambda session: served.work_async(session, 1)


def test_bare_request(wire, served):
    wire.manager()
    assert wire.count(serve(wire.bare(), served)) == BARE[served.name]


def test_request(wire, served):
    work = serve_current(wire.manager(), served)
    assert wire.count(work) == wire.promised(BARE[served.name])


def test_request_in_a_block(wire, served):
    work = serve_block(wire.manager(), requested(served))
    assert wire.count(work) == wire.promised(BARE[served.name])


def test_requests_in_tasks_of_their_own(wire, served):
    work = serve_block(wire.manager(), requested(served))
    counted = wire.count(lambda: asyncio.create_task(work()))
    assert counted == wire.promised(BARE[served.name])


def test_reader_beside_a_writer(wire, served):
    manager = wire.manager()

    async def work() -> None:
        async with manager.schema(BERN, readonly=True) as session:
            await session.get(Account, 1)

    assert wire.count(work) == wire.promised(BARE["read"])


async def new_ticket(session: AsyncSession) -> None:
    ticket = await session.get_one(Ticket, 1)
    ticket.state = State.OPEN if ticket.state is State.CLOSED else State.CLOSED
    session.add(Ticket(state=State.OPEN))
    await session.flush()
    await session.scalars(select(Ticket).where(Ticket.state == State.CLOSED))


@pytest.mark.parametrize(
    "operation", [*map(requested, REQUESTS), new_ticket], ids=["write", "read", "enum"]
)
def test_another_customer_costs_nothing_more(wire, operation):
    manager = wire.manager()
    bern, basel = (serve_block(manager, operation, name) for name in (BERN, BASEL))
    same = wire.count(bern)
    wire.count(basel)
    assert [wire.count(each, 0) for each in (bern, basel, bern, basel)] == [same] * 4


def test_model_with_an_enum_costs_no_more_than_bare(wire):
    ours = wire.count(serve_block(wire.manager(), new_ticket))
    assert ours == wire.promised(wire.count(in_session(wire.bare(), new_ticket)))


def test_first_use_of_a_statement_in_a_second_schema_is_like_any_other(wire, served):
    manager = wire.manager()
    wire.count(serve_block(manager, requested(served)))
    second = wire.count(serve_block(manager, requested(served), BASEL), 0)
    assert second == wire.promised(BARE[served.name])


def test_first_use_with_an_enum_in_a_second_schema_costs_no_more_than_an_engine(wire):
    manager, bare = wire.manager(), wire.bare(BASEL)
    for first in (serve_block(manager, new_ticket), in_session(bare, several_statements)):
        wire.count(first)
    ours = wire.count(serve_block(manager, new_ticket, BASEL), 0)
    assert ours <= wire.promised(wire.count(in_session(bare, new_ticket), 0))


def test_choosing_a_schema_and_no_statement_costs_nothing(wire):
    manager = wire.manager()

    async def work() -> None:
        await manager.set_current_schema(BASEL)
        manager.session()
        async with manager.schema(BERN):
            pass

    assert wire.count(work) == 0


def test_begin_and_prelude_are_one_message(wire):
    work = serve_block(wire.manager(), requested(REQUESTS[1]))
    wire.count(work)
    queries = wire.proxy.snapshot().queries
    if wire.is_pipeline:
        assert queries[0].startswith("BEGIN")
        assert queries[1] == f'SET LOCAL search_path TO "{BERN}", "pg_catalog", "extensions"'
    else:
        assert queries[0].startswith("BEGIN")
        assert f'SET LOCAL search_path TO "{BERN}"' in queries[0]
    assert queries[-1].rstrip(";") == "COMMIT"


async def savepoint(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))
    async with session.begin_nested():
        session.add(Entry(account_id=1, text="x", amount=Decimal(1)))
    await session.execute(text("SELECT 2"))


async def savepoint_first(session: AsyncSession) -> None:
    async with session.begin_nested():
        await session.get(Account, 1)


async def savepoint_rolled_back(session: AsyncSession) -> None:
    await session.get(Account, 1)
    savepoint = await session.begin_nested()
    await session.execute(update(Account).values(balance=1))
    await savepoint.rollback()
    await session.execute(select(Account.balance))
    await session.execute(select(Account.name))


async def rolled_back(session: AsyncSession) -> None:
    await session.execute(update(Account).values(balance=1))
    await session.rollback()


async def insert_many(session: AsyncSession) -> None:
    rows = [{"account_id": 1, "text": str(number), "amount": 1} for number in range(50)]
    await session.execute(insert(Entry), rows)


async def update_many(session: AsyncSession) -> None:
    rows = [{"id": 1, "balance": number} for number in range(20)]
    await session.execute(update(Account), rows)


async def driver_many(session: AsyncSession) -> None:
    rows = [{"key": 1, "balance": number} for number in range(20)]
    sql = text("UPDATE accounts SET balance = :balance WHERE id = :key")
    await (await session.connection()).execute(sql, rows)


async def stream(session: AsyncSession) -> None:
    result = await session.stream(text("SELECT * FROM generate_series(1, 50)"))
    assert len([row async for row in result]) == 50


async def yield_per(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))
    statement = select(Account).execution_options(yield_per=10)
    result = await session.stream_scalars(statement)
    assert [len(each) async for each in result.partitions()] == [1]


async def failure(session: AsyncSession) -> None:
    try:
        await session.execute(text("INSERT INTO accounts (id) VALUES (1)"))
    except IntegrityError:
        await session.rollback()
    await session.execute(text("SELECT 1"))


async def several_transactions(session: AsyncSession) -> None:
    for _ in range(3):
        await session.get(Account, 1)
        await session.commit()


async def several_statements(session: AsyncSession) -> None:
    for number in range(5):
        await session.execute(text("SELECT CAST(:number AS integer)"), {"number": number})


#: With the round trips that a pipeline saves: nothing stands in front of what becomes the
#: driver's own executemany, or a cursor on the server.
OPERATIONS = {
    savepoint: 1,
    savepoint_first: 1,
    savepoint_rolled_back: 1,
    rolled_back: 1,
    insert_many: 0,
    update_many: 0,
    driver_many: 0,
    stream: 0,
    yield_per: 1,
    failure: 2,
    several_transactions: 3,
    several_statements: 1,
}


def in_session(make: Callable[[], AsyncSession], operation: Operation) -> Any:
    async def work() -> None:
        async with make() as session:
            await operation(session)
            await session.commit()

    return work


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
def test_never_more_than_bare(wire, operation):
    manager = wire.manager()
    current = manager.session_factory(**manager.options_of(manager.parse_schema(BERN)))
    ours = wire.count(in_session(lambda: current, operation))
    bare = wire.count(in_session(wire.bare(), operation))
    assert ours == wire.promised(bare, OPERATIONS[operation])


async def copy_in(session: AsyncSession) -> None:
    fairy = await (await session.connection()).get_raw_connection()
    connection: Any = fairy.driver_connection
    rows = b"1\tx\t1\n" * 100
    columns = ["account_id", "text", "amount"]
    if hasattr(connection, "copy_to_table"):
        await session.execute(text("SELECT 1"))
        await connection.copy_to_table("entries", source=io.BytesIO(rows), columns=columns)
    else:
        sql = f"COPY entries ({', '.join(columns)}) FROM STDIN"
        async with connection.cursor() as cursor, cursor.copy(sql) as copy:
            await copy.write(rows)


def test_copy_sends_no_more_than_bare(wire):
    # asyncpg sends the data whether the server has answered or not: no exact round trips.
    manager = wire.manager()
    sent = []
    for work in (serve_block(manager, copy_in), in_session(wire.bare(), copy_in)):
        wire.count(work)
        messages = wire.proxy.snapshot().messages
        sent.append(messages["Query"] + messages.get("Sync", 0))
    assert sent[0] == sent[1]


async def moved_path(session: AsyncSession) -> None:
    await session.execute(text("SET LOCAL search_path TO public"))
    await session.execute(text("SELECT 1"))


def test_moved_path_is_mended_by_one_message(wire):
    ours = wire.count(serve_block(wire.manager(), moved_path))
    # A pipeline saves one for the beginning, and one for what mends the path.
    assert ours == wire.promised(wire.count(in_session(wire.bare(), moved_path)) + 1, 2)


async def select_one(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))


async def savepoints(session: AsyncSession) -> None:
    for _ in range(2):
        async with session.begin_nested():
            await select_one(session)


def test_savepoints_are_not_prepared(wire):
    manager, bare = wire.manager(), wire.bare()
    wire.count(serve_block(manager, select_one))
    wire.count(in_session(bare, select_one))
    ours = wire.count(serve_block(manager, savepoints), 0)
    # asyncpg alone prepares two that begin and two that end.
    prepared = 4 if "asyncpg" in wire.dsn else 0
    assert ours == wire.promised(wire.count(in_session(bare, savepoints), 0)) - prepared


def test_without_transactions_the_path_is_set_and_reset_once(wire):
    manager = wire.manager()
    engine = manager.engine.execution_options(schema=BERN, isolation_level="AUTOCOMMIT")

    async def work() -> None:
        async with engine.connect() as connection:
            for _ in range(5):
                await connection.execute(text("SELECT 1"))

    assert wire.count(work) == 5 + 2


def test_checkout_of_an_idle_connection_sends_no_ping(wire):
    manager = wire.manager()
    pings: list[Any] = []
    event.listen(manager.sync_engine, "checkout", lambda *_: pings.append(wire.proxy.snapshot()))
    wire.count(serve_block(manager, requested(REQUESTS[1])), 0)
    assert [each.round_trips for each in pings] == [0]


def test_connection_of_the_engine_costs_no_more_than_bare(wire):
    manager, bare = wire.manager(), wire.bare().kw["bind"]

    def work(engine: Any) -> Callable[[], Awaitable[None]]:
        async def connect() -> None:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

        return connect

    assert wire.count(work(manager.engine)) == wire.promised(wire.count(work(bare)))
