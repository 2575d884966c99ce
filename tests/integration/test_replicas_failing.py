"""Standbys that lag, die, hang or never were any: reads go on, elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from onegov_orm import AsyncSessionManager, _connecting, replicas
from tests.conftest import Databases
from tests.models import Base
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
from tests.replication import Replicated, Standby, ask, wait_until

COUNT = text("SELECT count(*) FROM documents")
PRIMARY = {""}


@pytest.fixture(scope="module")
def database(replicated: Replicated) -> Iterator[str]:
    """A database with two customers, on all servers."""
    name = replicated.primary.create()
    first = new_manager("psycopg2", replicated.primary.server, name)
    for schema in (BERN, BASEL):
        first.unit(add_document, schema)
    first.close()
    yield name
    replicated.primary.drop(name)


@pytest.fixture(params=["psycopg2", "asyncpg"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of manager in turn."""
    return str(request.param)


@pytest.fixture
def new(breakable: Replicated, database: str) -> Iterator[Callable[..., Manager]]:
    """Make managers that read from the standbys."""
    managers = []

    def make(kind: str, **options: Any) -> Manager:
        managers.append(new_routed(kind, breakable, database, **options))
        return managers[-1]

    yield make
    breakable.restore()
    for manager in managers:
        manager.close()


@pytest.fixture
def manager(new: Callable[..., Manager], kind: str, breakable: Replicated) -> Manager:
    """A manager whose reads go to all standbys."""
    manager = new(kind)
    wait_until_read_at(manager, *breakable.standbys)
    return manager


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait long for servers that hang."""
    monkeypatch.setattr(replicas, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(_connecting, "_REPLICA_TIMEOUT_SECONDS", 2)


def backends(standby: Standby, database: str) -> int:
    """Return how many connections a standby has in the database."""
    counts = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
    return int(ask(standby.server, counts))


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


@contextmanager
def hanging(standby: Standby) -> Iterator[None]:
    """Stop all processes of a standby, which takes connections and never answers."""
    pid = standby.server.pid
    assert pid is not None
    processes = [pid, *children(pid)]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(processes):
            os.kill(process, signal.SIGCONT)


def kill(standby: Standby) -> None:
    """Kill a standby, and wait until its connections are gone too."""
    pid = standby.server.pid
    assert pid is not None
    processes = children(pid)
    standby.kill()
    wait_until(lambda: not any(map(is_alive, processes)), "its processes survive")


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# lag


def test_a_standby_that_lags_is_not_read(
    new: Callable[..., Manager], breakable: Replicated, database: str, kind: str
) -> None:
    manager = new(kind, max_lag_seconds=1)
    one, two = breakable.standbys
    wait_until_read_at(manager, one, two)
    one.pause()
    other = new_manager("psycopg2", breakable.primary.server, database)
    other.unit(add_document)
    two.wait_until_caught_up()
    wait_until_read_at(manager, two)
    [status] = [each for each in manager.check() if not each.is_usable]
    assert status.reason == "it lags more than 1 s"
    one.resume()
    wait_until_read_at(manager, one, two)
    other.close()


def test_without_writes_nobody_lags(
    new: Callable[..., Manager], breakable: Replicated, kind: str
) -> None:
    manager = new(kind, max_lag_seconds=1.5)
    for standby in breakable.standbys:
        standby.pause()
    wait_until_read_at(manager, *breakable.standbys, hurries=False)


# death


def test_a_standby_that_is_killed_is_left_out(manager: Manager, breakable: Replicated) -> None:
    one, two = breakable.standbys
    kill(one)
    assert read_at(manager, times=6) == {two.name}
    manager.unit(add_document)
    one.start()
    wait_until_read_at(manager, one, two)


def test_a_standby_that_is_stopped_is_left_out(manager: Manager, breakable: Replicated) -> None:
    one, two = breakable.standbys
    two.stop()
    assert read_at(manager, times=6) == {one.name}


def test_at_most_the_transaction_in_progress_fails(
    manager: Manager, breakable: Replicated
) -> None:
    def work(session: Session) -> None:
        name = server_of(session)
        kill(next(each for each in breakable.standbys if each.name == name))
        session.execute(COUNT)

    with pytest.raises(DBAPIError) as caught:
        manager.unit(work, readonly=True)
    assert caught.value.connection_invalidated
    assert len(read_at(manager, times=6)) == 1


def test_without_standbys_the_primary_is_read(manager: Manager, breakable: Replicated) -> None:
    for standby in breakable.standbys:
        kill(standby)
    assert read_at(manager) == PRIMARY
    manager.unit(add_document)
    assert not any(status.is_usable for status in manager.check())
    assert manager.unit(server_of) == ""


def test_what_is_down_at_first_is_used_later(
    new: Callable[..., Manager], breakable: Replicated, kind: str
) -> None:
    one, two = breakable.standbys
    one.stop()
    manager = new(kind)
    wait_until_read_at(manager, two)
    one.start()
    wait_until_read_at(manager, one, two)


# what hangs


@pytest.mark.usefixtures("impatient")
def test_a_standby_that_hangs_is_left_out(manager: Manager, breakable: Replicated) -> None:
    one, two = breakable.standbys
    with hanging(one):
        assert [each.is_usable for each in manager.check()] == [False, True]
        assert read_at(manager, times=6) == {two.name}
    wait_until_read_at(manager, one, two)


@pytest.mark.usefixtures("impatient")
def test_a_standby_that_hangs_stops_no_other_check(
    new: Callable[..., Manager], breakable: Replicated, kind: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(replicas, "ANSWER_SECONDS", 60)
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.05)
    manager = new(kind, max_lag_seconds=1)
    one, two = breakable.standbys
    wait_until_read_at(manager, one, two)
    times = []

    def is_alone() -> bool:
        times.append(manager.mgr.replicas._replicas[1].fresh_as_of)
        return read_at(manager) == {two.name}

    route = manager.mgr.replicas
    with hanging(one):
        route._replicas[0].reason = "the test will not wait for its connections"
        wait_until(is_alone, "the other is not used alone")
        known = route._replicas[1].fresh_as_of
        wait_until(lambda: is_alone() and times[-1] > known, "the other is not checked any more")


@pytest.mark.usefixtures("impatient")
def test_an_address_that_never_answers_is_given_up(
    new: Callable[..., Manager], breakable: Replicated, kind: str, database: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
        url = f"postgresql+{KINDS[kind][1]}://ada@127.0.0.1:{port}/{database}"
        manager = new(kind, replicas=[url])
        [status] = manager.check()
    assert not status.is_usable
    assert "time" in (status.reason or "").lower()
    assert read_at(manager) == PRIMARY


# what is no replica


def refused(manager: Manager, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """Make sure that the only replica is not used, and that people are told."""
    [status] = manager.check()
    assert not status.is_usable
    assert read_at(manager) == PRIMARY
    assert reason in (status.reason or "").lower()
    assert reason in caplog.text.lower()
    assert "secret" not in caplog.text


def test_another_database_is_no_replica(
    new: Callable[..., Manager], breakable: Replicated, kind: str, caplog: Any
) -> None:
    url = breakable.standbys[0].dsn("postgres", driver=KINDS[kind][1])
    refused(new(kind, replicas=[url]), caplog, "no copy")


def test_another_cluster_is_no_replica(
    new: Callable[..., Manager], newest: Databases, database: str, kind: str, caplog: Any
) -> None:
    newest.run(f"CREATE DATABASE {database}_copy")
    newest.run(f"ALTER DATABASE {database}_copy RENAME TO other_{database}")
    url = newest.server.dsn(f"other_{database}", driver=KINDS[kind][1], tcp=False)
    refused(new(kind, replicas=[url]), caplog, "no copy")
    newest.drop(f"other_{database}")


def test_the_primary_is_no_replica(
    new: Callable[..., Manager], breakable: Replicated, database: str, kind: str, caplog: Any
) -> None:
    url = breakable.primary.server.dsn(database, driver=KINDS[kind][1], tcp=False)
    refused(new(kind, replicas=[url]), caplog, "no standby")


def test_an_unreachable_address_is_no_replica(
    new: Callable[..., Manager], database: str, kind: str, caplog: Any
) -> None:
    url = f"postgresql+{KINDS[kind][1]}://ada:secret@127.0.0.1:1/{database}"
    refused(new(kind, replicas=[url]), caplog, "connect")


def test_a_wrong_password_is_told(
    new: Callable[..., Manager], breakable: Replicated, database: str, kind: str, caplog: Any
) -> None:
    standby = breakable.standbys[0]
    port = standby.server.port
    url = f"postgresql+{KINDS[kind][1]}://postgres:secret@127.0.0.1:{port}/{database}"
    refused(new(kind, replicas=[url]), caplog, "password authentication failed")


def test_a_promoted_standby_is_no_replica(
    new: Callable[..., Manager], breakable: Replicated, database: str, caplog: Any
) -> None:
    with Standby(breakable.primary.server) as extra:
        manager = new("psycopg2", replicas=[extra.dsn(database)])
        wait_until_read_at(manager, extra)
        extra.promote()
        wait_until(lambda: not extra.is_standby, "it is not promoted")
        refused(manager, caplog, "no standby")


# loops


def test_a_loop_that_ended_in_a_check_does_no_harm(breakable: Replicated, database: str) -> None:
    primary = breakable.primary.server.dsn(database, driver="asyncpg", tcp=False)
    urls = [each.dsn(database, driver="asyncpg") for each in breakable.standbys]
    mgr = AsyncSessionManager(primary, Base, replicas=urls)

    async def read() -> str:
        async with mgr.schema(BERN, readonly=True) as session:
            return await session.run_sync(server_of)

    async def start() -> None:
        assert await read() == ""
        await mgr.engine.dispose()
        # Nobody waits for the check that was started.
        assert mgr.replicas is not None
        assert mgr.replicas._check.since is not None

    async def read_until_used() -> None:
        while await read() == "":
            await mgr.check_replicas()
        await mgr.dispose()

    asyncio.run(start())
    asyncio.run(read_until_used())
