"""The steps of a storm. Each is a small function, and checks what it sees.

An operation that lets a foreign row through without a word is worth nothing: every row that
is read is checked, and after each trick the next statement has to be in the right schema.
"""

from __future__ import annotations

import io
import pickle
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import asyncpg
import psycopg
import psycopg2.extras
from sqlalchemy import delete, exc, func, insert, inspect, select, text, update
from sqlalchemy.orm import Session, make_transient
from sqlalchemy.orm.exc import DetachedInstanceError, ObjectDeletedError

from onegov_orm.errors import ConfigurationError, CrossSchemaError, SearchPathMoved
from tests.models import Color, Document, Page
from tests.storms.customers import (
    MADE,
    TRACES,
    ForeignRow,
    StateTravelled,
    StormFailure,
    UnexpectedError,
    WrongPath,
    check_owner,
    check_path,
    check_rows,
    check_traces,
    name_of,
    number,
    owner_of_key,
)
from tests.storms.storm import Operation, Storm, Worker, driver_sql, execute, sqlstate

OPERATIONS: Final[list[Operation]] = []

UNDEFINED_TABLE: Final = "42P01"
UNDEFINED_CURSOR: Final = "34000"
UNDEFINED_STATEMENT: Final = "26000"
NO_TRANSACTION: Final = "25P01"
IN_TRANSACTION: Final = "25001"
IN_FAILED_TRANSACTION: Final = "25P02"
NOT_YET_USED: Final = "55000"
DIVISION_BY_ZERO: Final = "22012"
UNDEFINED_SAVEPOINT: Final = "3B001"
NOT_SUPPORTED: Final = "0A000"
FOREIGN_KEY: Final = "23503"

DRIVER_ERRORS: Final = (
    psycopg.Error,
    psycopg2.Error,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
)

PATH: Final = "SELECT current_setting('search_path'), current_schema()"
RECENT: Final = "SELECT id, owner FROM documents ORDER BY id DESC LIMIT 10"


def operation(
    weight: int = 2, when: Callable[[Storm], bool] = lambda storm: True
) -> Callable[[Callable[[Worker], None]], Callable[[Worker], None]]:
    """Make a function one of the operations of a storm."""

    def register(run: Callable[[Worker], None]) -> Callable[[Worker], None]:
        OPERATIONS.append(Operation(run, weight, when))
        return run

    return register


def uses_psycopg2(storm: Storm) -> bool:
    return storm.driver == "psycopg2"


def uses_psycopg(storm: Storm) -> bool:
    return storm.driver == "psycopg"


def reports_path(storm: Storm) -> bool:
    return storm.reports_path


def has_kills(storm: Storm) -> bool:
    return storm.weather.kills


# -- helpers


def row(schema: str) -> dict[str, Any]:
    return {"owner": schema, "title": schema, "color": Color.RED}


def insert_sql(schema: str) -> str:
    """An insert without parameters, that tells whose row it was."""
    values = f"VALUES ('{schema}', 'text', 'GREEN')"
    return f"INSERT INTO documents (owner, title, color) {values} RETURNING id, owner"


def check_session(worker: Worker) -> None:
    """Check that the session is where it has to be, for reading and for writing."""
    session, schema = worker.session, worker.schema
    if worker.chance(0.5):
        check_path(schema, *execute(session, PATH).one())
    if worker.chance(0.5):
        check_rows(schema, execute(session, insert_sql(schema)))
    check_rows(schema, execute(session, RECENT))


def driver_cursor(worker: Worker, **options: Any) -> Any:
    """Return a cursor of the driver's, on the session's connection."""
    proxy = worker.session.connection().connection
    return proxy.cursor(**options)


# -- moving on


@operation(10)
def move_to_another_customer(worker: Worker) -> None:
    worker.make_room()
    worker.schema = worker.other


@operation(8)
def commit(worker: Worker) -> None:
    worker.commit()


@operation(4)
def roll_back(worker: Worker) -> None:
    worker.rollback()


@operation(2)
def finish_and_move_on(worker: Worker) -> None:
    """The request loop: one customer after the other, mostly on one connection."""
    for _ in range(3):
        worker.end()
        worker.schema = worker.other
        check_rows(worker.schema, execute(worker.session, RECENT))


# -- reading and writing


@operation(8)
def read_objects(worker: Worker) -> None:
    query = select(Document).order_by(Document.id.desc()).limit(5)
    for document in worker.session.scalars(query):
        check_rows(worker.schema, [(document.id, document.owner)])
        worker.carried.append((worker.schema, document))


@operation(8)
def read_text(worker: Worker) -> None:
    check_rows(worker.schema, execute(worker.session, RECENT))


@operation(3)
def read_path(worker: Worker) -> None:
    check_path(worker.schema, *execute(worker.session, PATH).one())


@operation(4)
def read_traces(worker: Worker) -> None:
    check_traces(worker.schema, execute(worker.session, TRACES).one())


@operation(3)
def look_for_foreign_rows(worker: Worker) -> None:
    foreign = select(Document.owner).where(Document.owner != worker.schema).limit(1)
    for owner in worker.session.scalars(foreign):
        check_owner(worker.schema, owner)


@operation(8)
def add_objects(worker: Worker) -> None:
    document = Document(**row(worker.schema), pages=[Page(text=worker.schema)])
    worker.session.add(document)
    try:
        worker.session.flush()
    except exc.IntegrityError as error:
        # The customer has hidden its documents behind a temporary table.
        if sqlstate(error) != FOREIGN_KEY:
            raise
        worker.rollback()
        return
    check_owner(worker.schema, owner_of_key(document.id))
    worker.carried.append((worker.schema, document))


@operation(3)
def read_related_objects(worker: Worker) -> None:
    query = select(Document).where(Document.title == worker.schema).limit(2)
    for document in worker.session.scalars(query).all():
        for page in document.pages:
            check_rows(worker.schema, [(page.id, page.text)])


@operation(4)
def insert_text(worker: Worker) -> None:
    check_rows(worker.schema, execute(worker.session, insert_sql(worker.schema)))


@operation()
def update_in_bulk(worker: Worker) -> None:
    some = select(func.max(Document.id)).scalar_subquery()
    statement = update(Document).where(Document.id == some).values(title="changed")
    changed = worker.session.execute(statement.returning(Document.id, Document.owner))
    check_rows(worker.schema, changed.all())


@operation(5)
def delete_in_bulk(worker: Worker) -> None:
    oldest = select(Document.id).order_by(Document.id).limit(6).scalar_subquery()
    statement = delete(Document).where(Document.id.in_(oldest))
    options = {"synchronize_session": False}
    gone = worker.session.execute(
        statement.returning(Document.id, Document.owner), execution_options=options
    )
    check_rows(worker.schema, gone.all())


@operation()
def insert_in_bulk(worker: Worker) -> None:
    rows = [row(worker.schema) for _ in range(3)]
    returned = insert(Document).returning(Document.id, Document.owner)
    check_rows(worker.schema, worker.session.execute(returned, rows).all())


@operation(1)
def save_in_bulk(worker: Worker) -> None:
    session = worker.session
    session.bulk_save_objects([Document(**row(worker.schema)) for _ in range(2)])
    session.bulk_insert_mappings(Document, [row(worker.schema)])


@operation()
def insert_many(worker: Worker) -> None:
    statement = text("INSERT INTO documents (owner) VALUES (:owner)")
    worker.session.execute(statement, [{"owner": worker.schema}] * 3)


@operation(1)
def make_table(worker: Worker) -> None:
    """Tables are made in the customer's schema as well; a constant name is made once."""
    if worker.storm.weather.workers > 1:
        return
    name = f"{MADE}{number(worker.schema)}"
    execute(worker.session, f"CREATE TABLE IF NOT EXISTS {name} (owner text)")
    execute(worker.session, f"INSERT INTO {name} VALUES ('{worker.schema}')")


# -- savepoints


@operation(4)
def nest_savepoints(worker: Worker) -> None:
    session = worker.session
    with session.begin_nested() as outer:
        session.add(Document(**row(worker.schema)))
        session.flush()
        inner = session.begin_nested()
        check_session(worker)
        inner.commit() if worker.chance(0.5) else inner.rollback()
        check_session(worker)
        if worker.chance(0.5):
            outer.rollback()
    check_session(worker)


@operation(3)
def fail_in_savepoint(worker: Worker) -> None:
    with worker.fails(DIVISION_BY_ZERO), worker.session.begin_nested():
        if worker.chance(0.3) and not worker.storm.is_strict:
            move_path(worker)
        execute(worker.session, "SELECT 1 / 0")
    check_session(worker)


@operation(2)
def fail(worker: Worker) -> None:
    worker.close_unread()
    session = worker.session
    with worker.fails(DIVISION_BY_ZERO):
        execute(session, "SELECT 1 / 0")
    if worker.chance(0.5):
        with worker.fails(IN_FAILED_TRANSACTION):
            execute(session, insert_sql(worker.schema))
    if worker.chance(0.3):
        # Text that ends the failed transaction, and goes on.
        with worker.finds_no_table():
            execute(session, f"ROLLBACK; {insert_sql(worker.schema)}")
        check_session(worker)
    worker.rollback()


# -- text that ends the transaction


@operation(3)
def end_transaction_in_text(worker: Worker) -> None:
    """What comes after the end, in the same text, finds no table of any customer's."""
    if worker.chance(0.7):
        check_session(worker)
    worker.close_unread()
    end = worker.one_of(("ROLLBACK", "COMMIT", "END", "ABORT", "ROLLBACK AND CHAIN"))
    with worker.finds_no_table():
        execute(worker.session, f"{end}; {insert_sql(worker.schema)}")
    if end.endswith("CHAIN"):
        worker.rollback()
    check_session(worker)


@operation(2)
def begin_again_in_text(worker: Worker) -> None:
    if worker.chance(0.5):
        check_session(worker)
    worker.close_unread()
    ends = ("ROLLBACK", "COMMIT", "COMMIT; BEGIN", "COMMIT AND CHAIN", "ROLLBACK; BEGIN")
    execute(worker.session, worker.note(worker.one_of(ends)))
    expect_moved(worker)
    check_session(worker)


@operation(1)
def lose_savepoint_in_text(worker: Worker) -> None:
    worker.close_unread()
    with worker.fails(UNDEFINED_SAVEPOINT, NO_TRANSACTION), worker.session.begin_nested():
        execute(worker.session, "ROLLBACK")
        check_session(worker)
    worker.rollback()


# -- moving the path


def moves(other: str, is_reported: bool) -> tuple[str, ...]:
    """All the ways to move the search path to another customer."""
    plain = (
        f'SET search_path TO "{other}"',
        f'SET LOCAL search_path TO "{other}"',
        f'SET SESSION search_path = "{other}", extensions',
        f'set\n local  search_path to "{other}"',
        f"SET SCHEMA '{other}'",
        f"/* why */ SET LOCAL SCHEMA '{other}'",
        f"SELECT 1 -- it's\n; SET LOCAL SCHEMA '{other}'",
        f"SELECT '--'; SET LOCAL SCHEMA '{other}'",
        f"SELECT '/*'; SET SCHEMA '{other}'; SELECT '*/'",
        f"SELECT set_config('search_path', quote_ident('{other}'), false)",
        f"SELECT set_config('search_path', quote_ident('{other}'), true)",
        f"DO $$ BEGIN PERFORM set_config('search_path', quote_ident('{other}'), true); END $$",
        f'DO $$ BEGIN SET LOCAL search_path TO "{other}"; END $$',
        f"DO $$ BEGIN EXECUTE 'SET search_path TO \"{other}\"'; END $$",
        f"DO $x$ BEGIN EXECUTE 'SET SCHEMA ''{other}'''; END $x$",
        f"UPDATE pg_settings SET setting = quote_ident('{other}') WHERE name = 'search_path'",
        f'COMMIT; SET search_path TO "{other}"',
        f'ROLLBACK; BEGIN; SET LOCAL search_path TO "{other}"',
        "RESET search_path",
        "RESET ALL",
        "SET search_path TO DEFAULT",
    )
    hidden = (
        f"SELECT extensions.storm_walk('{other}', true)",
        f"SELECT extensions.storm_walk('{other}', false)",
        f"DO $$ BEGIN PERFORM extensions.storm_walk('{other}', false); END $$",
    )
    return plain + hidden if is_reported else plain


def some_move(worker: Worker, target: str, stays_in_transaction: bool = False) -> str:
    """Choose a way to move the path."""
    ways = moves(target, worker.storm.reports_path)
    if stays_in_transaction or worker.storm.weather.exact:
        ways = tuple(way for way in ways if not way.startswith(("COMMIT", "ROLLBACK")))
    return worker.note(worker.one_of(ways))


def move_path(worker: Worker) -> None:
    """Move the path in any way that does not end the transaction."""
    execute(worker.session, some_move(worker, worker.victim, stays_in_transaction=True))
    expect_moved(worker)


def expect_moved(worker: Worker) -> None:
    """With a strict manager, a moved path is an error once."""
    if worker.storm.is_strict:
        try:
            execute(worker.session, "SELECT 1")
        except SearchPathMoved:
            worker.rollback()


@operation(6)
def move_path_by_text(worker: Worker) -> None:
    if worker.chance(0.5):
        check_session(worker)
    worker.close_unread()
    execute(worker.session, some_move(worker, worker.victim))
    expect_moved(worker)
    check_session(worker)


@operation(2)
def move_path_by_driver(worker: Worker) -> None:
    worker.close_unread()
    driver_cursor(worker).execute(some_move(worker, worker.victim))
    expect_moved(worker)
    check_session(worker)


@operation(1, when=lambda storm: not storm.is_strict)
def move_path_in_savepoint(worker: Worker) -> None:
    session = worker.session
    savepoint = session.begin_nested()
    move_path(worker)
    check_session(worker)
    savepoint.rollback() if worker.chance(0.5) else savepoint.commit()
    check_session(worker)


@operation(1, when=lambda storm: not storm.is_strict)
def move_path_by_foreign_cursor(worker: Worker) -> None:
    """A cursor class of the caller's has the same protection."""
    cursor = foreign_cursor(worker)
    cursor.execute(f'SET LOCAL search_path TO "{worker.victim}"')
    cursor.execute(insert_sql(worker.schema))
    check_rows(worker.schema, cursor.fetchall())
    check_session(worker)


# -- cursors of the driver


def foreign_cursor(worker: Worker) -> Any:
    if worker.storm.driver == "psycopg2":
        return driver_cursor(worker, cursor_factory=psycopg2.extras.NamedTupleCursor)
    connection: Any = worker.session.connection().connection.driver_connection
    before, connection.cursor_factory = connection.cursor_factory, psycopg.ClientCursor
    try:
        return connection.cursor()
    finally:
        connection.cursor_factory = before


@operation(3)
def use_driver_cursor(worker: Worker) -> None:
    cursor = driver_cursor(worker)
    cursor.execute(insert_sql(worker.schema))
    check_rows(worker.schema, cursor.fetchall())
    cursor.execute(RECENT.encode())
    check_rows(worker.schema, cursor.fetchall())
    cursor.executemany("INSERT INTO documents (owner) VALUES (%s)", [(worker.schema,)] * 2)
    cursor.close()


@operation(1)
def use_foreign_cursor(worker: Worker) -> None:
    cursor = foreign_cursor(worker)
    cursor.execute(insert_sql(worker.schema))
    check_rows(worker.schema, cursor.fetchall())
    cursor.close()


@operation(2)
def copy_rows(worker: Worker) -> None:
    """COPY into the table, and out of it."""
    cursor = driver_cursor(worker)
    into, out = "COPY documents (owner) FROM STDIN", f"COPY ({RECENT}) TO STDOUT"
    if worker.storm.driver == "psycopg2":
        if worker.chance(0.5):
            cursor.copy_expert(into, io.StringIO(f"{worker.schema}\n" * 2))
        else:
            cursor.copy_from(io.StringIO(f"{worker.schema}\n"), "documents", columns=("owner",))
        found = io.StringIO()
        cursor.copy_expert(out, found)
        lines = found.getvalue().splitlines()
    else:
        with cursor.copy(into) as copy:
            copy.write_row((worker.schema,))
        with cursor.copy(out) as copy:
            lines = [f"{key}\t{owner}" for key, owner in copy.rows()]
    check_rows(worker.schema, [(int(key), owner) for key, owner in _fields(lines)])


def _fields(lines: list[str]) -> list[tuple[str, str]]:
    return [(key, owner) for key, _, owner in (line.partition("\t") for line in lines)]


@operation(1, when=uses_psycopg)
def use_pipeline(worker: Worker) -> None:
    """In a pipeline of psycopg's, answers come late, and so does what is to be learnt."""
    connection: Any = worker.session.connection().connection.driver_connection
    is_moved = worker.chance(0.3) and not worker.storm.is_strict
    with connection.pipeline():
        if is_moved:
            connection.execute(f'SET LOCAL search_path TO "{worker.victim}"')
        cursor = connection.execute(insert_sql(worker.schema))
        check_rows(worker.schema, cursor.fetchall())
    check_session(worker)


@operation(1)
def use_late_cursor(worker: Worker) -> None:
    """A cursor that was kept when its connection went back to the pool is of no use."""
    schema, cursor = worker.schema, driver_cursor(worker)
    cursor.execute(RECENT)
    worker.end()
    worker.schema = worker.other
    if worker.chance(0.5):
        check_session(worker)
    with suppress(*DRIVER_ERRORS):
        cursor.execute(insert_sql(schema))
        raise ForeignRow("a cursor worked on a connection that may be somebody else's")
    cursor.close()
    check_session(worker)


# -- server-side cursors


@operation(3)
def begin_to_read_on_server(worker: Worker) -> None:
    query = select(Document.id, Document.owner).execution_options(yield_per=2)
    result = worker.session.execute(query)
    worker.unread.append((worker.schema, result))
    check_rows(worker.schema, result.fetchmany(2))


@operation(4)
def read_on(worker: Worker) -> None:
    if worker.unread:
        schema, result = worker.one_of(worker.unread)
        with suppress(exc.ResourceClosedError):
            check_rows(schema, result.fetchmany(3))


@operation(1)
def read_on_after_the_end(worker: Worker) -> None:
    """A result that outlived its transaction is of no use, and harms nobody."""
    worker.end()
    query = select(Document.id, Document.owner).execution_options(yield_per=1)
    result = worker.session.execute(query)
    check_rows(worker.schema, result.fetchmany(1))
    worker.end()
    worker.schema = worker.other
    is_in_between = worker.chance(0.5)
    if is_in_between:
        check_session(worker)
    with suppress(exc.ResourceClosedError):
        with suppress(exc.DBAPIError, *DRIVER_ERRORS):
            result.fetchmany(2)
        result.close()
    check_session(worker)


# -- traces


@operation(3)
def shadow_table(worker: Worker) -> None:
    """A temporary table with the name of a real one, seen or made by a function in secret."""
    table = "documents (LIKE documents INCLUDING DEFAULTS)"
    if worker.chance(0.5):
        execute(worker.session, f"CREATE TEMP TABLE IF NOT EXISTS {table}")
        execute(worker.session, insert_sql(worker.schema))
    else:
        execute(worker.session, f"SELECT extensions.storm_shadow('{worker.schema}')")
    if worker.chance(0.8):
        worker.commit()
    if worker.chance(0.5):
        worker.schema = worker.other if not worker.is_tight else worker.schema


@operation(2)
def keep_setting(worker: Worker) -> None:
    way = worker.one_of(
        (
            f"SET storm.owner TO '{worker.schema}'",
            f"SET SESSION storm.owner TO '{worker.schema}'",
            f"SELECT '--'; SET storm.owner TO '{worker.schema}'",
            f"SELECT '/*' AS x; SET storm.owner TO '{worker.schema}'",
            f"SELECT set_config('storm.owner', '{worker.schema}', false)",
            f"DO $$ BEGIN PERFORM set_config('storm.owner', '{worker.schema}', false); END $$",
        )
    )
    execute(worker.session, worker.note(way))


@operation(2)
def take_lock(worker: Worker) -> None:
    execute(worker.session, f"SELECT pg_advisory_lock_shared({number(worker.schema)})")


@operation(1)
def listen(worker: Worker) -> None:
    channel = name_of("channel", worker.schema)
    execute(worker.session, f"LISTEN {channel}")
    execute(worker.session, f"NOTIFY {channel}")


@operation(1)
def prepare(worker: Worker) -> None:
    name = name_of("plan", worker.schema)
    known = f"SELECT count(*) FROM pg_prepared_statements WHERE name = '{name}'"
    if not execute(worker.session, known).scalar():
        execute(worker.session, f"PREPARE {name} AS {RECENT}")
    check_rows(worker.schema, execute(worker.session, f"EXECUTE {name}"))


@operation(1)
def hold_cursor(worker: Worker) -> None:
    name = name_of("cursor", worker.schema)
    known = f"SELECT count(*) FROM pg_cursors WHERE name = '{name}'"
    if not execute(worker.session, known).scalar():
        execute(worker.session, f"DECLARE {name} CURSOR WITH HOLD FOR {RECENT}")
    check_rows(worker.schema, execute(worker.session, f"FETCH 2 FROM {name}"))


@operation(2)
def read_last_value(worker: Worker) -> None:
    """``lastval()`` is the customer's own, or there is none."""
    with worker.may_fail(NOT_YET_USED), worker.session.begin_nested():
        value = execute(worker.session, "SELECT lastval()").scalar()
        if owner_of_key(value) != worker.schema:
            raise StateTravelled(f"{worker.schema} got the lastval() of {owner_of_key(value)}")


@operation(1)
def discard(worker: Worker) -> None:
    with worker.fails(IN_TRANSACTION):
        execute(worker.session, "DISCARD ALL")
    worker.rollback()
    execute(worker.session, "DISCARD TEMP")
    check_session(worker)


# -- connections past the session


@operation(4)
def connect_without_schema(worker: Worker) -> None:
    """A connection straight from the engine is nowhere, and finds nothing of anybody's."""
    worker.make_room()
    with worker.engine.connect() as connection:
        check_traces(None, driver_sql(connection, TRACES).one())
        if worker.chance(0.3):
            with worker.finds_no_table():
                driver_sql(connection, insert_sql("nobody"))
            connection.rollback()
        if worker.chance(0.3):
            driver_sql(connection, f'SET search_path TO "{worker.schema}"')
            check_rows(worker.schema, driver_sql(connection, RECENT))
            connection.commit()


@operation(2)
def take_raw_connection(worker: Worker) -> None:
    worker.make_room()
    connection = worker.engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(TRACES)
        check_traces(None, cursor.fetchone())
        if getattr(connection.driver_connection, "notifies", None) and uses_psycopg2(worker.storm):
            raise StateTravelled("a raw connection has the notifications of a customer")
        if worker.chance(0.4):
            cursor.execute(some_move(worker, worker.schema))
            connection.commit()
    finally:
        connection.close()


@operation(3)
def write_without_transactions(worker: Worker) -> None:
    """An AUTOCOMMIT connection of the customer's."""
    worker.make_room()
    schema = worker.schema
    engine: Any = worker.session.get_bind()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        check_traces(schema, driver_sql(connection, TRACES).one())
        check_rows(schema, driver_sql(connection, insert_sql(schema)))
        trick = worker.one_of(("", "ROLLBACK; ", "COMMIT; "))
        driver_sql(connection, trick + insert_sql(schema))
        if worker.chance(0.5) and not worker.storm.is_strict:
            way = "DISCARD ALL" if worker.chance(0.1) else some_move(worker, worker.victim)
            driver_sql(connection, way)
            if way == "DISCARD ALL":
                # A driver may have prepared statements that the server has not any more.
                for prepared in (PATH, insert_sql(schema)):
                    with worker.may_fail(UNDEFINED_STATEMENT):
                        driver_sql(connection, prepared)
        check_path(schema, *driver_sql(connection, PATH).one())
        check_rows(schema, driver_sql(connection, insert_sql(schema)))


@operation(1)
def have_session_without_transactions(worker: Worker) -> None:
    worker.end()
    worker.session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    check_session(worker)
    execute(worker.session, f"ROLLBACK; {insert_sql(worker.schema)}")
    check_session(worker)
    worker.end()


@operation(2)
def change_schema_of_connection(worker: Worker) -> None:
    """A connection that changes its schema, within one transaction if it is let."""
    worker.make_room()
    with worker.engine.connect() as connection:
        for schema in worker.random.sample((worker.schema, None, worker.other), 3):
            try:
                connection.execution_options(schema=schema)
            except ConfigurationError:
                connection.commit()
                connection.execution_options(schema=schema)
            check_traces(schema, driver_sql(connection, TRACES).one())
            if schema is not None:
                check_rows(schema, driver_sql(connection, insert_sql(schema)))
                if worker.chance(0.3):
                    driver_sql(connection, f"SELECT extensions.storm_shadow('{schema}')")
            if worker.chance(0.3):
                connection.commit()
        connection.commit()


@operation(1, when=lambda storm: not storm.is_strict)
def change_schema_and_isolation(worker: Worker) -> None:
    """One connection in turn with and without schema, with and without transactions."""
    worker.make_room()
    with worker.engine.connect() as connection:
        for _ in range(3):
            schema = worker.one_of((None, worker.schema, worker.other))
            level = worker.one_of(("AUTOCOMMIT", "SERIALIZABLE", "READ COMMITTED"))
            connection.execution_options(schema=schema, isolation_level=level)
            check_traces(schema, driver_sql(connection, TRACES).one())
            connection.rollback()


@operation(1)
def commit_in_two_phases(worker: Worker) -> None:
    worker.make_room()
    engine: Any = worker.session.get_bind()
    with engine.connect() as connection:
        transaction = connection.begin_twophase(f"storm-{uuid.uuid4().hex}")
        check_rows(worker.schema, driver_sql(connection, insert_sql(worker.schema)))
        with worker.may_fail(NOT_SUPPORTED):  # there was a temporary table
            transaction.prepare()
        if not connection.in_transaction():
            return
        transaction.commit() if worker.chance(0.6) else transaction.rollback()
        check_path(worker.schema, *driver_sql(connection, PATH).one())


@operation(1)
def invalidate_connection(worker: Worker) -> None:
    worker.close_unread()
    session = worker.session
    session.connection().invalidate()
    worker.rollback()
    check_session(worker)


# -- blocks and attempts


@operation(3)
def work_in_blocks(worker: Worker) -> None:
    """A block inside a block: each on its own, and all as before in the end."""
    worker.make_room()
    manager, outer, inner = worker.manager, worker.schema, worker.other
    before = manager.current_schema

    def work(session: Session, schema: str) -> None:
        check_path(schema, *execute(session, PATH).one())
        check_rows(schema, execute(session, insert_sql(schema)))

    with manager.schema(outer) as session:
        if not worker.is_tight:
            work(session, outer)
        with suppress(ZeroDivisionError), manager.schema(inner) as inner_session:
            work(inner_session, inner)
            if worker.chance(0.3):
                raise ZeroDivisionError
        if manager.current_schema != outer or manager.session() is not session:
            raise WrongPath("the block inside changed what is current outside")
        work(session, outer)
    if manager.current_schema != before:
        raise WrongPath(f"after the block, {manager.current_schema} is current, not {before}")


@operation(1)
def attempt(worker: Worker) -> None:
    """The first attempt fails for a reason that goes away."""
    worker.end()
    worker.manager.set_current_schema(worker.schema)
    fails = worker.chance(0.3)
    for tried in worker.manager.attempts():
        with tried as session:
            check_rows(worker.schema, execute(session, insert_sql(worker.schema)))
            if fails and tried.number == 1:
                execute(session, "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$")
            check_rows(worker.schema, execute(session, RECENT))


# -- objects


def copy_of(document: Document) -> Document:
    """Return the same object in no session, as from a cache."""
    copy: Document = pickle.loads(pickle.dumps(document))
    return copy


#: All the ways into a session.
DOORS: Final[tuple[Callable[[Session, Document], Any], ...]] = (
    lambda session, document: session.add(document),
    lambda session, document: session.merge(document),
    lambda session, document: session.delete(document),
    lambda session, document: session.add(Page(text="nobody", document=copy_of(document))),
    lambda session, document: session.merge(copy_of(document)),
    lambda session, document: session.bulk_save_objects([document]),
)


@operation(4)
def carry_object(worker: Worker) -> None:
    """An object of one customer is refused by the session of another, by any door."""
    for owner, document in list(worker.carried):
        if owner == worker.schema:
            continue
        if inspect(document).key is None:  # it never was stored, and is nobody's
            continue
        try:
            with worker.session.no_autoflush:
                worker.one_of(DOORS)(worker.session, document)
        except CrossSchemaError:
            worker.rollback()
            return
        raise ForeignRow(f"an object of {owner} was accepted in a session of {worker.schema}")


@operation(1)
def copy_object_on_purpose(worker: Worker) -> None:
    document = Document(**row(worker.other))
    worker.session.add(document)
    worker.session.expunge(document)
    make_transient(document)
    document.owner = worker.schema
    worker.session.add(document)
    worker.session.flush()
    check_owner(worker.schema, owner_of_key(document.id))


@operation(2)
def read_carried_object(worker: Worker) -> None:
    """Attributes are loaded again from the customer that the object came from."""
    for owner, document in list(worker.carried):
        if owner != worker.schema:
            continue
        with suppress(ObjectDeletedError, DetachedInstanceError):
            check_owner(owner, document.owner)


# -- losses


@operation(1, when=has_kills)
def kill_some_backend(worker: Worker) -> None:
    worker.kill()


@operation(1, when=has_kills)
def kill_own_backend(worker: Worker) -> None:
    """In the middle of a transaction."""
    pid = execute(worker.session, "SELECT pg_backend_pid()").scalar()
    worker.kill(pid)
    with suppress(exc.DBAPIError):
        execute(worker.session, insert_sql(worker.schema))
        raise UnexpectedError("a killed backend answered")
    worker.recover()
    check_session(worker)


@operation(1, when=has_kills)
def kill_idle_backend(worker: Worker) -> None:
    """A connection that was closed while it idled costs no request."""
    worker.end()
    if worker.storm.weather.workers == 1:
        worker.storm.watch.kill()
        check_session(worker)


def operation_named(name: str) -> Operation:
    """Return the operation with this name."""
    return next(found for found in OPERATIONS if found.name == name)


__all__ = ["OPERATIONS", "StormFailure", "operation_named"]
