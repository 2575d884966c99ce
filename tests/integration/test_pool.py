"""Bounded pools, holders with names, forks, and connections that died."""

from __future__ import annotations

import multiprocessing
import os
import threading

import pytest
import sqlalchemy.exc
import transaction
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from onegov_orm import ForeignConnection, PoolExhausted, _pool
from tests.models import Base, Document
from tests.processes import nobody_else_stays

TINY = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.1}


def test_an_exhausted_pool_names_the_holders(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base, pool_config=TINY)
    mgr.set_current_schema("towns-bern")
    mgr.session().execute(text("SELECT 1"))
    with pytest.raises(PoolExhausted, match=r'schema "towns-bern", thread MainThread') as caught:
        mgr.engine.connect()
    assert isinstance(caught.value, sqlalchemy.exc.TimeoutError)
    (holder,) = caught.value.holders
    assert holder.schema == "towns-bern"
    assert 0 <= holder.age_seconds < 60


def test_holders_are_forgotten_when_they_give_back(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base, pool_config=TINY)
    for name in ("towns-bern", "towns-basel"):
        with mgr.schema(name) as session:
            session.execute(text("SELECT 1"))
    assert mgr._holders.list() == []


def test_the_default_pool_is_bounded(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base)
    assert mgr.engine.pool.size() == 5
    assert mgr.engine.pool._max_overflow == 10


def test_a_session_takes_no_connection_before_its_first_statement(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base, pool_config=TINY)
    mgr.set_current_schema("towns-bern")
    mgr.session().add(Document(owner="towns-bern"))
    assert mgr.engine.pool.checkedout() == 0


def test_other_pools_name_their_holders_too(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base, pool_config={"poolclass": NullPool})
    with mgr.schema("towns-bern") as session:
        session.execute(text("SELECT 1"))
        assert [holder.schema for holder in mgr._holders.list()] == ["towns-bern"]
    assert mgr._holders.list() == []


def test_dispose_closes_connections_in_use(plain_dsn, new_manager, outside):
    mgr = new_manager(plain_dsn, Base, pool_config=TINY)
    connection = mgr.engine.connect()
    connection.execute(text("SELECT 1"))
    mgr.dispose()
    assert connection.connection.driver_connection.closed
    assert nobody_else_stays(outside(plain_dsn))
    connection.close()


def test_a_manager_works_again_after_dispose(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base)
    for _ in range(2):
        with mgr.schema("towns-bern") as session:
            session.execute(text("SELECT 1"))
        mgr.dispose()


def test_threads_that_ended_give_their_connections_back(dsn, new_manager):
    mgr = new_manager(dsn, Base, pool_config=TINY)

    def leave_open():
        mgr.set_current_schema("towns-bern")
        mgr.session().execute(text("SELECT 1"))

    for _ in range(3):
        thread = threading.Thread(target=leave_open)
        thread.start()
        thread.join()
        with mgr.engine.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1


def test_an_idle_connection_is_asked_nothing(dsn, new_manager):
    mgr = new_manager(dsn, Base)
    mgr.set_current_schema("towns-bern")
    statements = []
    event.listen(mgr.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for _ in range(3):
        mgr.session().execute(text("SELECT 1"))
        transaction.commit()
    assert statements == ["SELECT 1"] * 3


def work_in_child(mgr, queue):
    """Use the manager of the parent process in a forked child."""
    inherited = mgr._inherited_connection
    try:
        inherited.execute(text("SELECT 1"))
        refused = None
    except Exception as exc:
        refused = type(exc.__cause__ or exc).__name__
    inherited.close()
    mgr._inherited_session.close()
    transaction.abort()
    with mgr.schema("towns-bern") as session:
        session.add(Document(owner="towns-bern"))
        backend = session.execute(text("SELECT pg_backend_pid()")).scalar()
    queue.put((refused, backend, os.getpid()))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_the_sockets_to_its_parent(dsn, new_manager):
    mgr = new_manager(dsn, Base, pool_config={"pool_size": 2, "max_overflow": 0})
    mgr.set_current_schema("towns-bern")
    session = mgr._inherited_session = mgr.session()
    backend = session.execute(text("SELECT pg_backend_pid()")).scalar()
    session.add(Document(owner="towns-bern"))
    session.flush()
    connection = mgr._inherited_connection = mgr.engine.connect()
    connection.execute(text("SELECT 1"))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=work_in_child, args=(mgr, queue)) for _ in range(3)]
    for child in children:
        child.start()
    results = [queue.get(timeout=20) for _ in children]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert {refused for refused, _, _ in results} == {ForeignConnection.__name__}
    backends = {pid for _, pid, _ in results}
    assert len(backends) == 3
    assert backend not in backends
    connection.close()
    assert session.execute(text("SELECT pg_backend_pid()")).scalar() == backend
    transaction.commit()
    assert mgr.session().query(Document).count() == 4


def test_a_server_that_closes_each_connection_at_once(plain_dsn, new_manager, monkeypatch):
    mgr = new_manager(plain_dsn, Base)
    monkeypatch.setattr(_pool, "_is_readable", lambda connection: True)
    with pytest.raises(OperationalError, match="connection is closed") as caught:
        mgr.engine.connect()
    assert caught.value.connection_invalidated
    assert mgr.engine.pool.checkedout() == 0
