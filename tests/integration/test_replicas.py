"""Reading sessions read from the standbys, and see what they have to."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from onegov_orm import replicas
from tests.models import Document
from tests.poolers import PgBouncer
from tests.reading import (
    BASEL,
    BERN,
    KINDS,
    Manager,
    add_document,
    new_manager,
    new_routed,
    read_at,
    server_of,
    wait_until_read_at,
)
from tests.replication import Replicated, ask, wait_until

COUNT = text("SELECT count(*) FROM documents")
PRIMARY = {""}
ONE_CONNECTION = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 10}


@pytest.fixture(scope="module")
def database(replicated: Replicated) -> Iterator[str]:
    """A database with two customers, on all servers."""
    name = replicated.primary.create()
    first = new_manager("psycopg2", replicated.primary.server, name)
    for schema in (BERN, BASEL):
        first.unit(add_document, schema)
    first.close()
    replicated.wait_until_caught_up()
    yield name
    replicated.primary.drop(name)


@pytest.fixture(params=["psycopg2", "psycopg", "asyncpg", "psycopg-async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of manager in turn."""
    return str(request.param)


@pytest.fixture
def new(replicated: Replicated, database: str) -> Iterator[Callable[..., Manager]]:
    """Make managers that read from the standbys."""
    managers = []

    def make(kind: str, **options: Any) -> Manager:
        managers.append(new_routed(kind, replicated, database, **options))
        return managers[-1]

    yield make
    for manager in managers:
        manager.close()


@pytest.fixture
def manager(new: Callable[..., Manager], kind: str, replicated: Replicated) -> Manager:
    """A manager whose reads go to all standbys."""
    manager = new(kind)
    wait_until_read_at(manager, *replicated.standbys)
    return manager


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that is known renewed at once, so that standbys are used as soon as can be."""
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.0)


def settings(session: Session) -> tuple[Any, ...]:
    names = ("isolation", "read_only")
    question = ", ".join(f"current_setting('transaction_{name}')" for name in names)
    return tuple(session.execute(text(f"SELECT pg_is_in_recovery(), {question}")).one())


def owners(session: Session) -> set[str]:
    return set(session.scalars(select(Document.owner)))


def count(session: Session) -> int:
    return session.scalar(COUNT) or 0


# where to read


def test_reads_go_from_one_standby_to_the_next(manager: Manager, replicated: Replicated) -> None:
    names = [manager.unit(server_of, readonly=True) for _ in range(4)]
    assert set(names) == {standby.name for standby in replicated.standbys}
    assert names[:2] == names[2:]


def test_standbys_are_read_at_the_level_that_they_have(manager: Manager) -> None:
    assert manager.unit(settings, readonly=True) == (True, "repeatable read", "on")


def test_writes_go_to_the_primary(manager: Manager) -> None:
    assert manager.unit(settings) == (False, "serializable", "off")


def test_both_stand_side_by_side(manager: Manager) -> None:
    def work(writer: Session, reader: Session) -> list[Any]:
        return [settings(each)[0] for each in (reader, writer, reader)]

    assert manager.beside(work) == [True, False, True]


def test_long_reports_read_on_the_primary(manager: Manager) -> None:
    assert manager.unit(settings, deferrable=True) == (False, "serializable", "on")


def test_each_customer_reads_its_own_rows(
    new: Callable[..., Manager], kind: str, replicated: Replicated
) -> None:
    manager = new(kind, pool_config=ONE_CONNECTION)
    wait_until(lambda: bool(manager.check()) and read_at(manager) != PRIMARY, "not used")
    for schema in (BERN, BASEL) * 4:
        assert manager.unit(owners, schema, readonly=True) == {schema}


def test_nothing_of_a_customer_stays_on_a_standby(
    new: Callable[..., Manager], kind: str, replicated: Replicated, database: str
) -> None:
    driver = KINDS[kind][1]
    only = replicated.standbys[0]
    manager = new(kind, pool_config=ONE_CONNECTION, replicas=[only.dsn(database, driver=driver)])
    wait_until_read_at(manager, only)
    leave = "SELECT pg_backend_pid(), pg_is_in_recovery() FROM set_config('app.x', 'y', false)"
    hold = "DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1"
    found = (
        "SELECT pg_backend_pid(), pg_is_in_recovery(), (SELECT count(*) FROM pg_cursors "
        "WHERE name = 'left_behind'), current_setting('app.x', true)"
    )

    def work(session: Session) -> list[Any]:
        session.execute(text(hold))
        left = list(session.execute(text(leave)).one())
        session.connection().exec_driver_sql("COMMIT")
        return left

    left = manager.unit(work, readonly=True)
    assert left[1]
    [*same, cursors, setting] = manager.unit(
        lambda session: session.execute(text(found)).one(), BASEL, readonly=True
    )
    assert (same, cursors, setting or None) == (left, 0, None)


# what a reader has to see


def test_what_was_written_is_read(manager: Manager) -> None:
    before = manager.unit(count, readonly=True)
    manager.unit(add_document)
    assert read_at(manager) == PRIMARY
    assert manager.unit(count, readonly=True) == before + 1


@pytest.mark.usefixtures("eager")
def test_no_write_is_ever_missed(manager: Manager) -> None:
    chance = random.Random(1)
    servers = set()

    def work(session: Session) -> int:
        servers.add(server_of(session))
        return count(session)

    expected = manager.unit(count)
    for _ in range(100):
        manager.unit(add_document)
        expected += 1
        for _ in range(chance.randrange(1, 6)):
            assert manager.unit(work, readonly=True) == expected
    assert len(servers) > 1


@pytest.mark.usefixtures("breakable")
def test_what_the_standbys_lack_is_read_from_the_primary(
    manager: Manager, replicated: Replicated
) -> None:
    for standby in replicated.standbys:
        standby.pause()
    expected = manager.unit(count)
    for _ in range(20):
        manager.unit(add_document)
        expected += 1
        manager.check()
        assert manager.unit(count, readonly=True) == expected


def test_what_was_read_does_not_lead_away_from_the_standbys(manager: Manager) -> None:
    manager.unit(count, readonly=True)
    assert PRIMARY.isdisjoint(read_at(manager))


def test_what_was_aborted_does_not_lead_away_from_the_standbys(manager: Manager) -> None:
    def work(session: Session) -> None:
        add_document(session)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        manager.unit(work)
    assert PRIMARY.isdisjoint(read_at(manager))


@pytest.mark.usefixtures("breakable")
def test_a_new_schema_is_read_from_the_primary_at_first(
    manager: Manager, replicated: Replicated, kind: str
) -> None:
    name = f"towns-{kind}-new"
    for standby in replicated.standbys:
        standby.pause()
    manager.unit(lambda session: None, name)
    manager.check()
    assert read_at(manager, name) == PRIMARY
    for standby in replicated.standbys:
        standby.resume()

    def is_read_there() -> bool:
        manager.check()
        return PRIMARY.isdisjoint(read_at(manager, name))

    wait_until(is_read_there, "the standbys do not have the schema")


@pytest.mark.usefixtures("breakable")
def test_what_another_process_made_is_read_from_the_primary_at_first(
    manager: Manager, replicated: Replicated, database: str, kind: str
) -> None:
    name = f"towns-{kind}-other"
    for standby in replicated.standbys:
        standby.pause()
    other = new_manager("psycopg2", replicated.primary.server, database)
    other.unit(add_document, name)
    other.close()
    assert manager.unit(owners, name, readonly=True) == {name}


# many at once


@pytest.mark.usefixtures("eager")
def test_in_a_storm_each_thread_reads_its_own_writes(
    new: Callable[..., Manager], replicated: Replicated
) -> None:
    manager = new("psycopg2", transaction_manager=None, pool_config={"pool_size": 2})
    wait_until_read_at(manager, *replicated.standbys)
    schemas = [f"towns-storm-{number}" for number in range(5)]
    servers: set[str] = set()

    def storm(seed: int) -> None:
        chance = random.Random(seed)
        written: dict[str, int] = {}
        for _ in range(60):
            schema = chance.choice(schemas)
            if chance.random() < 0.3:
                manager.unit(add_document, schema)
                written[schema] = written.get(schema, 0) + 1
            with manager.mgr.schema(schema), manager.mgr.schema(schema, readonly=True) as reader:
                servers.add(server_of(reader))
                assert owners(reader) <= {schema}
                assert count(reader) >= written.get(schema, 0)

    for schema in schemas:
        manager.unit(add_document, schema)
    with ThreadPoolExecutor(6) as executor:
        list(executor.map(storm, range(6)))
    assert len(servers) == 3


# around it


def test_an_exhausted_primary_does_not_stop_the_checks(
    new: Callable[..., Manager], replicated: Replicated
) -> None:
    manager = new("psycopg2", pool_config=ONE_CONNECTION, transaction_manager=None)
    manager.unit(count)

    def are_read() -> bool:
        return PRIMARY.isdisjoint(read_at(manager))

    def work(session: Session) -> None:
        session.scalar(COUNT)
        manager.check()
        wait_until(are_read, "the replicas are not used")

    replicated.wait_until_caught_up()
    manager.unit(work)


def test_a_record_that_is_half_written_does_not_keep_the_standbys_away(
    new: Callable[..., Manager], replicated: Replicated, database: str
) -> None:
    """On a quiet primary, nothing would ever complete the page on which it ends."""
    manager = new("psycopg2")
    dsn = replicated.primary.server.dsn(database, tcp=False)
    with closing(psycopg2.connect(dsn)) as writer, writer.cursor() as cursor:
        cursor.execute(f'SET search_path TO "{BERN}"')
        cursor.execute("INSERT INTO documents (owner) SELECT 'x' FROM generate_series(1, 2000)")
        # The writer writes whole pages.
        wait_until(lambda: at_page_end(cursor), "nothing is left unwritten")
        wait_until(
            lambda: any(status.is_usable for status in manager.check()), "no standby is usable"
        )


def at_page_end(cursor: Any) -> bool:
    cursor.execute(
        "SELECT pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()"
        " AND mod(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0'), 8192) = 0"
    )
    return bool(cursor.fetchone()[0])


def test_checks_leave_no_threads(new: Callable[..., Manager], replicated: Replicated) -> None:
    before = set(threading.enumerate())
    manager = new("psycopg2")
    wait_until_read_at(manager, *replicated.standbys)
    wait_until(lambda: set(threading.enumerate()) <= before, "threads are left")


def test_disposing_closes_all_connections(
    kind: str, replicated: Replicated, database: str
) -> None:
    manager = new_routed(kind, replicated, database)
    wait_until_read_at(manager, *replicated.standbys)
    manager.close()
    question = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
    for standby in replicated.standbys:
        wait_until(lambda s=standby: ask(s.server, question) == 0, "a connection is left")


FORKS = """
import os, sys, transaction
from sqlalchemy import text
from tests.models import Base
from onegov_orm import SessionManager
primary, *standbys = sys.argv[1:]
mgr = SessionManager(primary, Base, replicas=standbys, transaction_manager=None)
question = text("SELECT pg_backend_pid(), pg_is_in_recovery()")
def read():
    while True:
        mgr.check_replicas()
        with mgr.schema("towns-bern", readonly=True) as session:
            pid, is_standby = session.execute(question).one()
        if is_standby:
            return pid
mine = {read() for _ in range(4)}
child = os.fork()
if not child:
    os._exit(0 if mine.isdisjoint(read() for _ in range(4)) else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert {read() for _ in range(4)} <= mine
mgr.dispose()
"""


def test_a_forked_child_has_connections_of_its_own(replicated: Replicated, database: str) -> None:
    urls = [replicated.primary.server.dsn(database, tcp=False)]
    urls += [standby.dsn(database) for standby in replicated.standbys]
    subprocess.run([sys.executable, "-c", FORKS, *urls], check=True, timeout=60)


def test_a_strict_default_of_the_database_does_no_harm(
    new: Callable[..., Manager], kind: str, replicated: Replicated, database: str
) -> None:
    change = f"ALTER DATABASE {database}"
    replicated.primary.run(f"{change} SET default_transaction_isolation = 'serializable'")
    try:
        replicated.wait_until_caught_up()
        manager = new(kind)
        wait_until_read_at(manager, *replicated.standbys)
        for schema in (BASEL, BERN, BASEL):
            assert manager.unit(owners, schema, readonly=True) == {schema}
    finally:
        replicated.primary.run(f"{change} RESET default_transaction_isolation")


def test_poolers_can_stand_in_front_of_all_servers(
    new: Callable[..., Manager],
    new_pooler: Callable[..., PgBouncer],
    replicated: Replicated,
    database: str,
    kind: str,
) -> None:
    servers: list[Any] = [replicated.primary, *replicated.standbys]
    poolers = [new_pooler(each, default_pool_size=2) for each in servers]
    driver = KINDS[kind][1]
    first, *urls = [pooler.dsn(database, driver=driver) for pooler in poolers]
    make, _, own = KINDS[kind]
    with closing(make(first, replicas=urls, pooler="external", **own)) as manager:
        wait_until_read_at(manager, *replicated.standbys)
        for schema in (BERN, BASEL) * 3:
            assert manager.unit(owners, schema, readonly=True) == {schema}
            assert manager.unit(settings, schema, readonly=True)[0]
        manager.unit(add_document)
        assert manager.unit(settings, readonly=True) == (False, "serializable", "on")
