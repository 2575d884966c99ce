"""The poolers and standbys that other tests rely on do what they say."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest

from tests import poolers
from tests.conftest import Databases
from tests.poolers import PgBouncer, PoolerError
from tests.replication import Replicated, Standby, ask, wait_until

PROJECT = Path(__file__).parents[2]

NewPooler = Callable[..., PgBouncer]

OWNER = """
import time
from onegov_orm.embedded import EmbeddedServer
from tests.poolers import PgBouncer
from tests.replication import Standby
server = EmbeddedServer(tcp=True)
server.start()
standby = Standby(server)
standby.start()
pooler = PgBouncer(server)
pooler.start()
print(pooler.pid, standby.server.pid, server.socket_directory, flush=True)
time.sleep(60)
"""


@contextmanager
def client(dsn: str, **options: Any) -> Iterator[Any]:
    """Connect with psycopg 3, which reconnects nothing and prepares nothing."""
    with closing(psycopg.connect(dsn, prepare_threshold=None, **options)) as connection:
        yield connection


def backend(connection: Any) -> int:
    """Return the process that serves a connection just now."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return int(row[0])


def search_path(connection: Any) -> str:
    return str(connection.execute("SHOW search_path").fetchone()[0])


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def connect_with_psycopg2(dsn: str, **options: Any) -> None:
    psycopg2.connect(dsn, **options).close()


def connect_with_psycopg(dsn: str, **options: Any) -> None:
    psycopg.connect(dsn, **options).close()


def connect_with_asyncpg(dsn: str, **options: Any) -> None:
    async def connect() -> None:
        connection = await asyncpg.connect(dsn, server_settings=options)
        await connection.close()

    asyncio.run(connect())


# PgBouncer

each_driver = pytest.mark.parametrize(
    "connect", [connect_with_psycopg2, connect_with_psycopg, connect_with_asyncpg]
)


@each_driver
@pytest.mark.parametrize("tcp", [False, True])
def test_each_driver_comes_in(
    newest: Databases, new_pooler: NewPooler, connect: Callable[..., None], tcp: bool
) -> None:
    connect(new_pooler(newest).dsn(tcp=tcp))


@each_driver
def test_options_at_startup_are_refused(
    newest: Databases, new_pooler: NewPooler, connect: Callable[..., None]
) -> None:
    refused = (psycopg2.Error, psycopg.Error, asyncpg.PostgresError)
    with pytest.raises(refused, match="unsupported startup parameter: options"):
        connect(new_pooler(newest).dsn(), options="-c search_path=elsewhere")


def test_password_is_asked_for_over_tcp(newest: Databases, new_pooler: NewPooler) -> None:
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(new_pooler(newest).dsn(tcp=True), password="wrong")


def test_role_that_the_pooler_does_not_know_comes_in(
    databases: Databases, new_pooler: NewPooler
) -> None:
    pooler = new_pooler(databases)
    databases.run("CREATE ROLE pooled LOGIN PASSWORD 'secret'")
    try:
        for tcp, password in ((False, None), (True, "secret")):
            with client(pooler.dsn(tcp=tcp), user="pooled", password=password) as connection:
                assert connection.execute("SELECT current_user").fetchone() == ("pooled",)
    finally:
        databases.run("DROP ROLE pooled")


def test_clients_share_servers_between_transactions(
    newest: Databases, new_pooler: NewPooler
) -> None:
    pooler = new_pooler(newest, pool_mode="transaction", default_pool_size=2)
    with client(pooler.dsn()) as first, client(pooler.dsn()) as second:
        shared = backend(first)
        first.commit()
        assert backend(second) == shared
        assert backend(first) != shared
        assert set(pooler.server_pids("postgres")) == {backend(first), shared}


def test_third_transaction_waits_for_a_server(newest: Databases, new_pooler: NewPooler) -> None:
    pooler = new_pooler(newest, default_pool_size=2)
    dsn = pooler.dsn()
    with client(dsn) as first, client(dsn) as second, client(dsn) as third:
        free = backend(first)
        backend(second)
        with ThreadPoolExecutor(1) as executor:
            future = executor.submit(backend, third)
            wait_until(
                lambda: any(pool["cl_waiting"] for pool in pooler.show("POOLS")), "nobody waits"
            )
            assert not future.done()
            first.rollback()
            assert future.result(10) == free


def test_settings_leak_from_client_to_client(newest: Databases, new_pooler: NewPooler) -> None:
    pooler = new_pooler(newest, default_pool_size=1)
    with client(pooler.dsn()) as first, client(pooler.dsn()) as second:
        first.execute("SET search_path TO leaked")
        first.commit()
        assert search_path(second) == "leaked"
        reported = second.info.parameter_status("search_path")
        assert reported == '"$user", public'  # nobody has told the second client


def test_session_mode_keeps_a_server_and_resets_it(
    newest: Databases, new_pooler: NewPooler
) -> None:
    pooler = new_pooler(newest, pool_mode="session", default_pool_size=2)
    with client(pooler.dsn()) as first, client(pooler.dsn()) as second:
        pids = backend(first), backend(second)
        first.execute("SET search_path TO kept")
        first.commit()
        second.commit()
        assert (backend(first), backend(second)) == pids
        assert search_path(first) == "kept"
        first.commit()
        first.close()
        with client(pooler.dsn()) as third:
            assert backend(third) == pids[0]
            assert search_path(third) == '"$user", public'


def test_clients_stay_when_their_servers_are_killed(
    newest: Databases, new_pooler: NewPooler
) -> None:
    pooler = new_pooler(newest)
    with client(pooler.dsn()) as idle, client(pooler.dsn()) as busy:
        old = backend(idle)
        idle.commit()
        backend(busy)
        pooler.kill_servers("postgres")
        with pytest.raises(psycopg.OperationalError):
            busy.execute("SELECT 1")
        assert backend(idle) != old


def test_kill_ends_clients_and_lets_others_in(newest: Databases, new_pooler: NewPooler) -> None:
    pooler = new_pooler(newest)
    with client(pooler.dsn()) as old:
        backend(old)
        pooler.kill("postgres")
        with pytest.raises(psycopg.OperationalError):
            old.execute("SELECT 1")
    with client(pooler.dsn()) as new:
        backend(new)


def test_pooler_comes_back_with_the_same_address(newest: Databases, new_pooler: NewPooler) -> None:
    pooler = new_pooler(newest)
    dsn = pooler.dsn()
    pooler.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    assert not pooler.socket_directory.exists()
    pooler.start()
    assert pooler.dsn() == dsn
    with client(dsn) as connection:
        backend(connection)


def test_pooler_that_has_died_is_started_again(newest: Databases, new_pooler: NewPooler) -> None:
    pooler = new_pooler(newest)
    pid = pooler.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not pooler.is_running, "PgBouncer has survived")
    pooler.start()
    connect_with_psycopg(pooler.dsn())


def test_pooler_that_does_not_start_says_why(newest: Databases, new_pooler: NewPooler) -> None:
    with pytest.raises(PoolerError, match="invalid value"):
        new_pooler(newest, settings={"server_tls_sslmode": "perhaps"})


def test_taken_port_is_not_used(
    newest: Databases, new_pooler: NewPooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server((poolers.LOOPBACK, 0))) as taken:
        used: int = taken.getsockname()[1]
        ports = [poolers.free_port(), used]
        monkeypatch.setattr(poolers, "free_port", ports.pop)
        pooler = new_pooler(newest)
        assert ports == []
        assert pooler.port != used
        connect_with_psycopg(pooler.dsn(tcp=True))


# standbys


def test_standbys_replay_and_refuse_writes(replicated: Replicated) -> None:
    name = replicated.primary.create()
    replicated.wait_until_caught_up()
    assert len(replicated.standbys) == 2
    for standby in replicated.standbys:
        for tcp in (False, True):
            with client(standby.dsn(name, tcp=tcp)) as connection:
                assert connection.info.parameter_status("in_hot_standby") == "on"
                with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                    connection.execute("CREATE TABLE t (x integer)")
    replicated.primary.drop(name)


def count(server: Any) -> int:
    return int(ask(server, "SELECT count(*) FROM seen"))


@pytest.fixture
def seen(breakable: Replicated) -> Iterator[Replicated]:
    """A table that both standbys have."""
    breakable.primary.run("CREATE TABLE seen (x integer)")
    breakable.wait_until_caught_up()
    yield breakable
    breakable.primary.run("DROP TABLE seen")


def test_paused_standby_lags_behind(seen: Replicated) -> None:
    first, second = seen.standbys
    first.pause()
    seen.primary.run("INSERT INTO seen VALUES (1)")
    second.wait_until_caught_up()
    with pytest.raises(TimeoutError, match="has not caught up"):
        first.wait_until_caught_up(timeout=0.1)
    assert (count(first.server), count(second.server)) == (0, 1)
    first.resume()
    first.wait_until_caught_up()
    assert count(first.server) == 1


@pytest.mark.parametrize("end", [Standby.kill, Standby.stop])
def test_standby_comes_back_and_catches_up(
    seen: Replicated, end: Callable[[Standby], None]
) -> None:
    first, second = seen.standbys
    dsn = first.dsn()
    with client(dsn) as connection:
        backend(connection)
        end(first)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)
    assert (first.is_running, second.is_running) == (False, True)
    seen.primary.run("INSERT INTO seen VALUES (1)")
    first.start()
    assert first.dsn() == dsn
    first.wait_until_caught_up()
    assert count(first.server) == 1


def test_restored_standbys_run_and_replay(seen: Replicated) -> None:
    seen.standbys[0].kill()
    seen.standbys[1].pause()
    seen.restore()
    seen.wait_until_caught_up()


def test_promoted_standby_takes_writes(replicated: Replicated) -> None:
    primary = replicated.primary.server
    with Standby(primary) as standby:
        standby.promote()
        assert not standby.is_standby
        ask(standby.server, "CREATE TABLE only_here (x integer)")
    assert not standby.data_directory.exists()
    assert ask(primary, "SELECT to_regclass('only_here')") is None
    slots = f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{standby.name}'"
    assert ask(primary, slots) == 0


def test_pooler_in_front_of_a_standby(replicated: Replicated, new_pooler: NewPooler) -> None:
    pooler = new_pooler(replicated.standbys[0])
    with client(pooler.dsn()) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


@pytest.mark.usefixtures("newest", "new_pooler")
def test_nothing_outlives_a_killed_owner() -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", OWNER],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        *pids, directory = process.stdout.readline().split()
        assert all(is_alive(int(pid)) for pid in pids)
        process.kill()
    wait_until(lambda: not any(is_alive(int(pid)) for pid in pids), "a server lives on")
    wait_until(lambda: not Path(directory).exists(), "files are left")
