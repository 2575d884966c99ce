"""Nothing is written through a reading session, whatever is sent through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from onegov_orm import _sql
from onegov_orm.errors import ConfigurationError, ReadOnlySession
from tests.conftest import Databases
from tests.models import Document
from tests.reading import (
    BASEL,
    BERN,
    INSERT,
    KINDS,
    READS,
    WAYS_OUT,
    WRITES,
    Asynchronous,
    Blocking,
    Manager,
    add_document,
    attack,
    contents,
    new_manager,
)

#: Each customer has the same connection, one after the other.
ONE_CONNECTION = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 10}

#: asyncpg prepares what is not marked as a script.
PREFIXES = {Blocking: (_sql.SCRIPT,), Asynchronous: ("", _sql.SCRIPT)}

HELPERS = """
CREATE FUNCTION open_up() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
    SET transaction_read_only = off;
END $$;
CREATE PROCEDURE get_out() LANGUAGE plpgsql AS $$ BEGIN
    COMMIT; EXECUTE 'SET TRANSACTION READ WRITE';
    INSERT INTO "towns-bern".documents (owner) VALUES ('stranger'); COMMIT;
END $$;
"""


#: Servers and kinds of managers: what a driver does is the same on both servers.
CASES = [*(("newest", kind) for kind in KINDS), ("older", "psycopg2"), ("older", "asyncpg")]


def _serve(databases: Databases) -> Iterator[tuple[Any, str]]:
    name = databases.create()
    waiting = f"BEGIN; {INSERT}; PREPARE TRANSACTION 'waiting'"
    with closing(new_manager("psycopg2", databases.server, name)) as first:
        first.unit(add_document, BASEL)
        first.unit(add_document)
        for sql in (HELPERS, waiting):
            first.unit(lambda session, sql=sql: session.execute(text(sql)))
        yield databases.server, name
        first.unit(lambda session: session.execute(text("ROLLBACK PREPARED 'waiting'")))
    databases.drop(name)


@pytest.fixture(scope="module")
def newest_served(newest: Databases) -> Iterator[tuple[Any, str]]:
    """The newest server with a database, in which somebody waits for a second phase."""
    yield from _serve(newest)


@pytest.fixture(scope="module")
def older_served(older: Databases) -> Iterator[tuple[Any, str]]:
    """The same of an older server."""
    yield from _serve(older)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def manager(request: pytest.FixtureRequest) -> Iterator[Manager]:
    """A manager of each kind, for all tests."""
    server, kind = request.param
    served = request.getfixturevalue(f"{server}_served")
    with closing(new_manager(kind, *served, pool_config=ONE_CONNECTION)) as manager:
        yield manager


@pytest.fixture(scope="module")
def before(manager: Manager) -> Any:
    return manager.unit(contents)


@pytest.fixture
def unchanged(manager: Manager, before: Any) -> Iterator[None]:
    """Make sure that nothing is written, and that the same connection can write afterwards."""
    yield
    assert manager.unit(contents) == before
    assert manager.pool.checkedout() == 0


def read(manager: Manager, work: Any) -> Any:
    return manager.unit(work, readonly=True)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("statement", WRITES)
def test_texts_that_write_are_refused(manager: Manager, statement: str) -> None:
    with pytest.raises(ReadOnlySession):
        read(manager, lambda session: session.execute(text(statement)))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("statement", WRITES[:5])
def test_the_server_refuses_below_the_session(manager: Manager, statement: str) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"):
        read(manager, lambda session: session.connection().exec_driver_sql(statement))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("statements", WAYS_OUT, ids="\n".join)
def test_there_is_no_way_out(manager: Manager, statements: tuple[str, ...]) -> None:
    for prefix in PREFIXES[type(manager)]:
        assert read(manager, lambda session, p=prefix: attack(session, statements, p))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("statement", READS)
def test_texts_that_only_read_are_fine(manager: Manager, statement: str) -> None:
    statement = _sql.SCRIPT + statement
    read(manager, lambda session: session.connection().exec_driver_sql(statement))


def test_objects_are_not_added(manager: Manager, unchanged: None) -> None:
    def work(session: Session) -> None:
        session.add(Document(owner=BERN))
        session.flush()

    with pytest.raises(ReadOnlySession):
        read(manager, work)


def test_objects_are_not_changed(manager: Manager, unchanged: None) -> None:
    def work(session: Session) -> None:
        session.scalars(select(Document)).one().title = "written"
        session.flush()

    with pytest.raises(ReadOnlySession):
        read(manager, work)


def test_objects_are_not_deleted(manager: Manager, unchanged: None) -> None:
    def work(session: Session) -> None:
        session.delete(session.scalars(select(Document)).one())
        session.flush()

    with pytest.raises(ReadOnlySession):
        read(manager, work)


def test_objects_are_not_written_before_a_query(manager: Manager, unchanged: None) -> None:
    def work(session: Session) -> None:
        session.add(Document(owner=BERN))
        session.scalars(select(Document)).all()

    with pytest.raises(ReadOnlySession):
        read(manager, work)


def test_changes_are_not_dropped_in_silence(manager: Manager, unchanged: None) -> None:
    with pytest.raises(ReadOnlySession):
        read(manager, lambda session: session.add(Document(owner=BERN)))


def test_an_object_set_to_what_it_was_is_no_change(manager: Manager) -> None:
    def work(session: Session) -> None:
        document = session.scalars(select(Document)).one()
        document.title = document.title
        session.flush()

    read(manager, work)


@pytest.mark.parametrize(
    "statement",
    [
        insert(Document).values(owner="stranger"),
        insert(Document),
        update(Document).values(title="written"),
        delete(Document),
        insert(Document.__table__).values(owner="stranger"),
        update(Document.__table__).values(title="written"),
        delete(Document.__table__),
        insert(Document).values(owner="stranger").returning(Document),
        select(insert(Document).values(owner="x").returning(Document.id).cte()),
        select(Document).with_for_update(),
        select(func.nextval("documents_id_seq")),
    ],
    ids=str,
)
def test_statements_that_write_are_refused(
    manager: Manager, unchanged: None, statement: Any
) -> None:
    rows = [{"owner": "stranger"}] if statement.is_insert and not statement._values else None
    with pytest.raises(ReadOnlySession):
        read(manager, lambda session: session.execute(statement, rows))


@pytest.mark.parametrize(
    "work",
    [
        lambda session: session.query(Document).update({"title": "written"}),
        lambda session: session.query(Document).delete(),
        lambda session: session.bulk_save_objects([Document(owner="stranger")]),
        lambda session: session.bulk_insert_mappings(Document, [{"owner": "stranger"}]),
        lambda session: session.bulk_update_mappings(Document, [{"id": 1, "title": "written"}]),
        lambda session: session.merge(Document(owner="stranger")) and session.flush(),
    ],
    ids=["Query.update", "Query.delete", "save", "insert", "update", "merge"],
)
def test_other_methods_that_write_are_refused(
    manager: Manager, unchanged: None, work: Any
) -> None:
    with pytest.raises(ReadOnlySession):
        read(manager, work)


def test_core_statements_on_its_connection_are_refused(manager: Manager, unchanged: None) -> None:
    statement = insert(Document.__table__).values(owner="stranger")
    with pytest.raises(DBAPIError, match="read-only"):
        read(manager, lambda session: session.connection().execute(statement))


def test_cursors_of_the_driver_are_refused(manager: Manager, unchanged: None) -> None:
    def work(session: Session) -> None:
        cursor = session.connection().connection.cursor()
        cursor.execute(INSERT)

    with pytest.raises(Exception, match="read-only transaction"):
        read(manager, work)


def test_a_savepoint_changes_nothing(manager: Manager, unchanged: None) -> None:
    def work(session: Session) -> None:
        nested = session.begin_nested()
        session.execute(select(Document))
        nested.rollback()
        session.execute(text(INSERT))

    with pytest.raises(ReadOnlySession):
        read(manager, work)


def test_a_failure_changes_nothing(manager: Manager, unchanged: None) -> None:
    def work(session: Session) -> None:
        with pytest.raises(DBAPIError), session.begin_nested():
            session.execute(text("SELECT 1 / 0"))
        session.execute(text(INSERT))

    with pytest.raises(ReadOnlySession):
        read(manager, work)


@pytest.mark.usefixtures("unchanged")
def test_another_customer_can_write_on_the_same_connection(manager: Manager) -> None:
    def work(session: Session) -> int:
        return session.scalar(text("SELECT pg_backend_pid()")) or 0

    def write(session: Session) -> int:
        session.add(Document(owner=BASEL))
        session.flush()
        return work(session)

    assert read(manager, work) == manager.unit(write, BASEL)


def test_without_transactions_nothing_is_read(manager: Manager, unchanged: None) -> None:
    options = {"isolation_level": "AUTOCOMMIT"}
    with pytest.raises(ReadOnlySession, match="AUTOCOMMIT"):
        read(
            manager,
            lambda session: session.connection(execution_options=options).execute(
                text("SELECT 1")
            ),
        )


@pytest.mark.parametrize("options", [{"access": None}, {"prelude": None}])
def test_options_do_not_make_it_write(
    manager: Manager, unchanged: None, options: dict[str, Any]
) -> None:
    def work(session: Session) -> None:
        session.connection(execution_options=options).execute(text(INSERT))

    with pytest.raises((ConfigurationError, DBAPIError)):
        read(manager, work)


def test_other_levels_do_not_make_it_write(manager: Manager, unchanged: None) -> None:
    options = {"isolation_level": "READ COMMITTED"}
    with pytest.raises(DBAPIError, match="read-only"):
        read(
            manager,
            lambda session: session.connection(execution_options=options).execute(text(INSERT)),
        )
