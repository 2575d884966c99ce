"""A session that reads stands beside the one that writes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from onegov_orm.errors import NoCurrentSchema, SchemaNotFound
from tests.models import Document
from tests.reading import BASEL, BERN, KINDS, Blocking, Manager, add_document, new_manager
from tests.replication import ask

PID = text("SELECT pg_backend_pid()")
COUNT = text("SELECT count(*) FROM documents")


@pytest.fixture(scope="module", params=["newest", "older"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Any, str]]:
    """Each server with a database that has two customers."""
    databases = request.getfixturevalue(request.param)
    name = databases.create()
    first = new_manager("psycopg2", databases.server, name)
    for schema in (BERN, BASEL):
        first.unit(add_document, schema)
    first.close()
    yield databases.server, name
    databases.drop(name)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of manager in turn."""
    return str(request.param)


@pytest.fixture
def manager(kind: str, served: tuple[Any, str]) -> Iterator[Manager]:
    """A manager of each kind."""
    manager = new_manager(kind, *served)
    yield manager
    manager.close()


def settings(session: Session) -> list[str]:
    """Return how the transaction is."""
    names = ("isolation", "read_only", "deferrable")
    question = ", ".join(f"current_setting('transaction_{name}')" for name in names)
    return list(session.execute(text(f"SELECT {question}")).one())


def count(manager: Manager, schema: str = BERN) -> int:
    return manager.unit(lambda session: session.scalar(COUNT) or 0, schema)


def kill(served: tuple[Any, str], pid: Any) -> None:
    """End a connection on the server, and wait until it is gone."""
    assert ask(served[0], f"SELECT pg_terminate_backend({pid}, 10000)")


def test_each_takes_a_connection_when_it_is_used(manager: Manager) -> None:
    def work(writer: Session, reader: Session) -> list[int]:
        out = [manager.pool.checkedout()]
        for session in (reader, writer, reader):
            session.scalar(COUNT)
            out.append(manager.pool.checkedout())
        return out

    manager.unit(lambda session: None)
    assert manager.beside(work) == [0, 1, 2, 2]
    assert manager.pool.checkedout() == 0


def test_each_has_a_connection_of_its_own(manager: Manager) -> None:
    assert manager.beside(lambda writer, reader: writer.scalar(PID) != reader.scalar(PID))


def test_the_reader_does_not_see_what_is_not_committed(manager: Manager) -> None:
    def work(writer: Session, reader: Session) -> bool:
        add_document(writer)
        writer.flush()
        return writer.scalar(COUNT) == (reader.scalar(COUNT) or 0) + 1

    assert manager.beside(work)


def test_a_unit_commits_what_its_writer_wrote(manager: Manager) -> None:
    def work(writer: Session, reader: Session) -> None:
        reader.scalar(COUNT)
        add_document(writer)

    before = count(manager)
    manager.beside(work)
    assert count(manager) == before + 1


def test_an_exception_aborts_it(manager: Manager) -> None:
    def work(writer: Session, reader: Session) -> None:
        add_document(writer)
        writer.flush()
        reader.scalar(text("SELECT 1 / 0"))

    before = count(manager)
    with pytest.raises(DBAPIError, match="division by zero"):
        manager.beside(work)
    assert count(manager) == before
    assert manager.pool.checkedout() == 0


def test_post_processing_comes_when_both_are_closed(manager: Manager) -> None:
    out = []

    def work(writer: Session, reader: Session) -> None:
        manager.mgr.after_commit(lambda: out.append(manager.pool.checkedout()))
        manager.mgr.after_abort(lambda: out.append("abort"))
        reader.scalar(COUNT)
        add_document(writer)

    manager.beside(work)
    assert out == [0]


def test_post_processing_comes_without_a_write_too(manager: Manager) -> None:
    ran = []

    def work(session: Session) -> None:
        manager.mgr.after_commit(lambda: ran.append(manager.pool.checkedout()))
        session.scalar(COUNT)

    manager.unit(work, readonly=True)
    assert ran == [0]


def test_a_failed_question_does_not_undo_the_write(manager: Manager) -> None:
    def work(writer: Session, reader: Session) -> None:
        add_document(writer)
        with pytest.raises(DBAPIError):
            reader.scalar(text("SELECT 1 / 0"))

    before = count(manager)
    manager.beside(work)
    assert count(manager) == before + 1


@pytest.mark.parametrize("notices", [True, False])
def test_a_reader_that_dies_does_not_undo_the_write(
    manager: Manager, served: tuple[Any, str], notices: bool
) -> None:
    def work(writer: Session, reader: Session) -> None:
        add_document(writer)
        writer.flush()
        kill(served, reader.scalar(PID))
        if notices:
            with pytest.raises(DBAPIError):
                reader.scalar(COUNT)

    before = count(manager)
    manager.beside(work)
    assert count(manager) == before + 1
    assert manager.pool.checkedout() == 0


def test_a_reading_block_has_a_reading_session(manager: Manager) -> None:
    def work(session: Session) -> Any:
        same = {manager.mgr.session(), manager.mgr.reader()}
        return [getattr(each, "sync_session", each) for each in same] == [session]

    assert manager.unit(work, readonly=True)


def test_an_unknown_schema_can_not_be_read(manager: Manager) -> None:
    with pytest.raises(SchemaNotFound):
        manager.unit(lambda session: None, "towns-nowhere", readonly=True)
    found = "SELECT to_regnamespace('\"towns-nowhere\"') IS NULL"
    assert manager.unit(lambda session: session.scalar(text(found)))


def test_on_the_primary_it_reads_at_the_manager_s_level(kind: str, served: Any) -> None:
    for level in ("SERIALIZABLE", "READ COMMITTED"):
        manager = new_manager(kind, *served, isolation_level=level)
        assert manager.unit(settings, readonly=True) == [level.lower(), "on", "off"]
        assert manager.unit(settings) == [level.lower(), "off", "off"]
        manager.close()


@pytest.mark.parametrize("readonly", [False, True])
def test_a_long_report_waits_for_a_snapshot(manager: Manager, readonly: bool) -> None:
    options = {"readonly": readonly, "deferrable": True}
    assert manager.unit(settings, **options) == ["serializable", "on", "on"]


def test_a_long_report_can_stand_beside(manager: Manager) -> None:
    found = manager.beside(lambda writer, reader: settings(reader), deferrable=True)
    assert found == ["serializable", "on", "on"]


def test_the_same_connection_writes_for_the_next_one(kind: str, served: Any) -> None:
    pool = {"pool_size": 1, "max_overflow": 0}
    manager = new_manager(kind, *served, pool_config=pool)
    for schema in (BERN, BASEL, BERN):
        for options in ({"readonly": True}, {"deferrable": True}):
            pid = manager.unit(lambda session: session.scalar(PID), schema, **options)
            assert manager.unit(settings, schema) == ["serializable", "off", "off"]
            assert manager.unit(lambda session: session.scalar(PID), schema) == pid
            manager.unit(add_document, schema)
    manager.close()


def test_each_customer_reads_its_own_rows(manager: Manager) -> None:
    owners = select(Document.owner).distinct()
    for schema in (BERN, BASEL, BERN):
        found = manager.unit(lambda s: s.scalars(owners).all(), schema, readonly=True)
        assert found == [schema]


def test_what_was_read_can_be_merged(manager: Manager) -> None:
    def work(writer: Session, reader: Session) -> None:
        document = reader.scalars(select(Document).limit(1)).one()
        reader.expunge(document)
        document.title = "merged"
        assert writer.merge(document) in writer.dirty

    manager.beside(work)
    merged = select(Document.owner).where(Document.title == "merged").distinct()
    assert manager.unit(lambda session: session.scalars(merged).one()) == BERN


def test_reading_is_not_announced(manager: Manager) -> None:
    heard = []
    manager.mgr.on_commit.connect(lambda schema, changes: heard.append(schema), weak=False)
    manager.unit(lambda session: session.scalar(COUNT), readonly=True)
    assert not heard


def test_two_phases_are_not_for_readers(kind: str, served: Any) -> None:
    def work(writer: Session, reader: Session) -> None:
        reader.scalar(COUNT)
        add_document(writer)

    if kind == "asyncpg":
        # SQLAlchemy knows no second phase there.
        return
    manager = new_manager(kind, *served, session_config={"twophase": True})
    before = count(manager)
    manager.beside(work)
    assert count(manager) == before + 1
    manager.close()


# without a block


@pytest.fixture
def joined(served: Any) -> Iterator[Any]:
    """A synchronous manager with a current schema."""
    manager = new_manager("psycopg2", *served)
    manager.mgr.set_current_schema(BERN)
    yield manager.mgr
    manager.close()


def test_without_a_schema_there_is_no_reader(manager: Manager) -> None:
    with pytest.raises(NoCurrentSchema):
        manager.mgr.reader()


def test_the_same_scope_has_the_same_reader(joined: Any) -> None:
    assert joined.reader() is joined.reader()
    assert joined.reader() is not joined.session()
    assert joined.reader() is not joined.reader(deferrable=True)


def test_another_schema_has_another_reader(joined: Any) -> None:
    bern = joined.reader()
    joined.set_current_schema(BASEL)
    assert joined.reader() is not bern
    assert bern.scalars(select(Document.owner).distinct()).all() == [BERN]


def test_another_thread_has_another_reader(joined: Any) -> None:
    readers = [joined.reader()]

    def work() -> None:
        joined.set_current_schema(BERN)
        readers.append(joined.reader())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert readers[0] is not readers[1]


def test_the_end_of_the_transaction_is_the_reader_s_end(joined: Any) -> None:
    joined.reader().scalar(COUNT)
    joined.session().scalar(COUNT)
    joined.transaction_manager.commit()
    assert joined.engine.pool.checkedout() == 0


@pytest.mark.parametrize("verb", ["commit", "abort"])
def test_a_kept_reader_gives_its_connection_back(served: Any, verb: str) -> None:
    manager = new_manager("psycopg2", *served, keep_session=True)
    mgr = manager.mgr
    mgr.set_current_schema(BERN)
    reader = mgr.reader()
    reader.scalar(COUNT)
    getattr(mgr.transaction_manager, verb)()
    assert mgr.engine.pool.checkedout() == 0
    assert mgr.reader() is reader
    assert reader.scalar(COUNT)
    manager.close()


def test_attempts_end_the_reader_too(served: Any) -> None:
    manager = Blocking(served[0].dsn(served[1], tcp=False), transaction_manager=None)
    manager.mgr.set_current_schema(BERN)
    for attempt in manager.mgr.attempts():
        with attempt:
            manager.mgr.reader().scalar(COUNT)
    assert manager.pool.checkedout() == 0
    manager.close()
