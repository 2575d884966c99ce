"""How often a request goes to the server, counted on the wire: exact numbers, no timing.

Each count of the library stands beside that of bare SQLAlchemy on one fixed schema, measured
in the same test on the same server through the same proxy.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import transaction
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from benchmarks.contestants import REQUESTS, fixed_engine
from benchmarks.models import Account, Entry, RequestBase
from benchmarks.wire import WireProxy
from onegov_orm import SessionManager

BERN, BASEL = "towns-bern", "towns-basel"

#: The contract: round trips of the library for a request.
PROMISED = {
    ("psycopg2", "write"): 4,
    ("psycopg2", "read"): 2,
    ("psycopg", "write"): 5,
    ("psycopg", "read"): 3,
}

#: What bare SQLAlchemy takes with any driver.
BARE = {"write": 5, "read": 3}

#: psycopg 3 prepares a statement when it is executed for the sixth time, by a message more.
WARM_UP = 8

Work = Callable[[Session], Any]


@dataclass
class Wire:
    """The same database for the library and for bare SQLAlchemy, through one proxy."""

    proxy: WireProxy
    dsn: str
    driver: str
    managers: list[SessionManager]
    engines: list[Any]

    def manager(self, **options: Any) -> SessionManager:
        """A manager with one connection, whose schemas exist and are known to it."""
        pool = {"pool_size": 1, "max_overflow": 0}
        manager = SessionManager(self.dsn, RequestBase, pool_config=pool, **options)
        self.managers.append(manager)
        for name in (BASEL, BERN):
            manager.ensure_schema_exists(name)
            with manager.schema(name) as session:
                session.merge(Account(id=1, name="first"))
        return manager

    def bare(self, **options: Any) -> Callable[[], Session]:
        """Bare SQLAlchemy, in one schema for good."""
        engine = fixed_engine(self.dsn, BERN, pool_size=1, max_overflow=0)
        self.engines.append(engine)
        return sessionmaker(engine, **options)

    def count(self, work: Callable[[], Any]) -> int:
        """How often the work goes to the server, when everything is warm."""
        for _ in range(WARM_UP):
            work()
        self.proxy.reset()
        work()
        return self.proxy.snapshot().round_trips


@pytest.fixture
def wire(databases: Any, database: str, driver: str) -> Iterator[Wire]:
    """Each driver on each server, over TCP through a proxy."""
    server = databases.server
    with WireProxy("127.0.0.1", server.port) as proxy:
        dsn = proxy.dsn(server.dsn(database, driver=driver, tcp=True))
        found = Wire(proxy, dsn, driver, [], [])
        yield found
        transaction.abort()
        for manager in found.managers:
            manager.dispose()
        for engine in found.engines:
            engine.dispose()


@pytest.fixture(params=REQUESTS, ids=lambda each: each.name)
def served(request: pytest.FixtureRequest) -> Any:
    """A writing and a reading request."""
    return request.param


def serve(make: Callable[[], Session], served: Any) -> Callable[[], None]:
    def work() -> None:
        with make() as session:
            served.work(session, 1)
            if served.writes:
                session.commit()

    return work


def serve_current(manager: SessionManager, served: Any, schema: str = BERN) -> Callable[[], None]:
    def work() -> None:
        manager.set_current_schema(schema)
        served.work(manager.session(), 1)
        transaction.commit()

    return work


def test_bare_request(wire, served):
    wire.manager()
    assert wire.count(serve(wire.bare(), served)) == BARE[served.name]


def test_joined_request(wire, served):
    work = serve_current(wire.manager(), served)
    assert wire.count(work) == PROMISED[wire.driver, served.name]


def test_plain_request(wire, served):
    manager = wire.manager(transaction_manager=None)
    manager.set_current_schema(BERN)
    work = serve(manager.session, served)
    assert wire.count(work) == PROMISED[wire.driver, served.name]


@pytest.mark.parametrize("options", [{}, {"transaction_manager": None}], ids=["joined", "plain"])
def test_request_in_a_block(wire, served, options):
    manager = wire.manager(**options)

    def work() -> None:
        with manager.schema(BERN) as session:
            served.work(session, 1)

    assert wire.count(work) == PROMISED[wire.driver, served.name]


def test_another_customer_costs_nothing_more(wire, served):
    manager = wire.manager()
    bern, basel = (serve_current(manager, served, name) for name in (BERN, BASEL))
    for _ in range(WARM_UP):
        bern()
    counts = []
    for work in (basel, bern, basel, basel):
        wire.proxy.reset()
        work()
        counts.append(wire.proxy.snapshot().round_trips)
    assert counts == [PROMISED[wire.driver, served.name]] * 4


def test_first_request_of_a_process_costs_nothing_more_but_the_question_for_the_schema(wire):
    wire.manager()
    manager = SessionManager(wire.dsn, RequestBase)
    wire.managers.append(manager)
    with manager.engine.connect():
        # The dialect asks a new server for its version and settings.
        pass
    wire.proxy.reset()
    manager.set_current_schema(BERN, create=False)
    asked = wire.proxy.snapshot().round_trips
    serve_current(manager, REQUESTS[1])()
    total = wire.proxy.snapshot().round_trips
    assert asked == PROMISED[wire.driver, "read"]
    # The second time, all that `create=True` makes sure of is looked up, in one transaction.
    assert total - asked <= PROMISED[wire.driver, "read"] * 2 + 1


def test_choosing_a_schema_and_no_statement_costs_nothing(wire):
    manager = wire.manager()

    def work() -> None:
        manager.set_current_schema(BASEL)
        manager.session()
        with manager.schema(BERN):
            pass
        transaction.commit()

    assert wire.count(work) == 0


def test_begin_and_prelude_are_one_message(wire):
    serve_current(wire.manager(), REQUESTS[1])()
    wire.proxy.reset()
    serve_current(wire.managers[0], REQUESTS[1])()
    queries = wire.proxy.snapshot().queries
    assert queries[0].startswith("BEGIN")
    assert f'SET LOCAL search_path TO "{BERN}"' in queries[0]
    assert queries[-1] == "COMMIT"
    if wire.driver == "psycopg2":
        assert len(queries) == 2
        assert "SELECT" in queries[0]


def savepoint(session: Session) -> None:
    session.execute(text("SELECT 1"))
    with session.begin_nested():
        session.add(Entry(account_id=1, text="x", amount=Decimal(1)))
    session.execute(text("SELECT 2"))


def savepoint_first(session: Session) -> None:
    with session.begin_nested():
        session.get(Account, 1)


def savepoint_rolled_back(session: Session) -> None:
    session.get(Account, 1)
    savepoint = session.begin_nested()
    session.execute(update(Account).values(balance=1))
    savepoint.rollback()
    session.execute(select(Account.balance))
    session.execute(select(Account.name))


def insert_many(session: Session) -> None:
    rows = [{"account_id": 1, "text": str(number), "amount": 1} for number in range(50)]
    session.execute(insert(Entry), rows)


def update_many(session: Session) -> None:
    rows = [{"id": 1, "balance": number} for number in range(20)]
    session.execute(update(Account), rows)


def driver_many(session: Session) -> None:
    rows = [{"key": 1, "balance": number} for number in range(20)]
    sql = "UPDATE accounts SET balance = %(balance)s WHERE id = %(key)s"
    session.connection().exec_driver_sql(sql, rows)


def copy_in(session: Session) -> None:
    connection: Any = session.connection().connection.dbapi_connection
    sql = "COPY entries (account_id, text, amount) FROM STDIN"
    with connection.cursor() as cursor:
        if hasattr(cursor, "copy_expert"):
            cursor.copy_expert(sql, io.StringIO("1\tx\t1\n" * 100))
        else:
            with cursor.copy(sql) as copy:
                copy.write("1\tx\t1\n" * 100)


def copy_out(session: Session) -> None:
    connection: Any = session.connection().connection.dbapi_connection
    sql = "COPY accounts TO STDOUT"
    with connection.cursor() as cursor:
        if hasattr(cursor, "copy_expert"):
            cursor.copy_expert(sql, io.StringIO())
        else:
            with cursor.copy(sql) as copy:
                assert list(copy)


def stream(session: Session) -> None:
    sql = text("SELECT * FROM generate_series(1, 50)")
    result = session.execute(sql, execution_options={"stream_results": True})
    assert len(result.all()) == 50


def yield_per(session: Session) -> None:
    session.execute(text("SELECT 1"))
    statement = select(Account).execution_options(yield_per=10)
    assert [len(partition) for partition in session.scalars(statement).partitions()] == [1]


def failure(session: Session) -> None:
    try:
        session.execute(text("INSERT INTO accounts (id) VALUES (1)"))
    except IntegrityError:
        session.rollback()
    session.execute(text("SELECT 1"))


def several_transactions(session: Session) -> None:
    for _ in range(3):
        session.get(Account, 1)
        session.commit()


def moved_path(session: Session) -> None:
    session.execute(text("SET LOCAL search_path TO public"))
    session.execute(text("SELECT 1"))


def several_statements(session: Session) -> None:
    for number in range(5):
        session.execute(text("SELECT :number"), {"number": number})


OPERATIONS = [
    savepoint,
    savepoint_first,
    savepoint_rolled_back,
    insert_many,
    update_many,
    driver_many,
    copy_in,
    copy_out,
    stream,
    yield_per,
    failure,
    several_transactions,
    several_statements,
]


def in_session(make: Callable[[], Session], operation: Work, end: str = "commit") -> Any:
    def work() -> None:
        with make() as session:
            operation(session)
            getattr(session, end)()

    return work


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
def test_never_more_than_bare(wire, operation):
    manager = wire.manager(transaction_manager=None)
    manager.set_current_schema(BERN)
    ours = wire.count(in_session(manager.session, operation))
    bare = wire.count(in_session(wire.bare(), operation))
    saved = PROMISED[wire.driver, "read"] < BARE["read"]
    # COPY and what becomes the driver's own executemany can't have anything in front of them.
    alone = operation in (driver_many, update_many, copy_in, copy_out)
    transactions = {several_transactions: 3, failure: 2}.get(operation, 1)
    assert ours == bare - (transactions if saved and not alone else 0)


def test_two_phase_commit_never_more_than_bare(wire):
    manager = wire.manager(transaction_manager=None, session_config={"twophase": True})
    manager.set_current_schema(BERN)
    ours = wire.count(in_session(manager.session, several_statements))
    bare = wire.count(in_session(wire.bare(twophase=True), several_statements))
    assert ours <= bare


def test_moved_path_is_mended_at_no_more_than_one_message(wire):
    manager = wire.manager(transaction_manager=None)
    manager.set_current_schema(BERN)
    ours = wire.count(in_session(manager.session, moved_path))
    bare = wire.count(in_session(wire.bare(), moved_path))
    assert ours <= bare + (wire.driver == "psycopg")


def test_without_transactions_the_path_is_set_and_reset_once(wire):
    manager = wire.manager(transaction_manager=None)
    schema = manager.engine.execution_options(schema=BERN, isolation_level="AUTOCOMMIT")

    def work() -> None:
        with schema.connect() as connection:
            for _ in range(5):
                connection.execute(text("SELECT 1"))

    assert wire.count(work) == 5 + 2


def test_checkout_of_an_idle_connection_sends_no_ping(wire):
    manager = wire.manager()
    pings: list[object] = []
    event.listen(manager.engine, "checkout", lambda *_: pings.append(wire.proxy.snapshot()))
    wire.proxy.reset()
    serve_current(manager, REQUESTS[1])()
    assert [each.round_trips for each in pings] == [0]


def test_raw_connection_of_the_engine_costs_no_more_than_bare(wire):
    manager = wire.manager()
    bare = wire.bare().kw["bind"]

    def work(engine: Any) -> Callable[[], None]:
        def connect() -> None:
            with engine.connect() as connection, nullcontext():
                connection.execute(text("SELECT 1"))

        return connect

    saved = PROMISED[wire.driver, "read"] < BARE["read"]
    assert wire.count(work(manager.engine)) == wire.count(work(bare)) - saved
