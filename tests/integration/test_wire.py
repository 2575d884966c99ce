"""The proxy between real drivers and a real server."""

from __future__ import annotations

import asyncio
import random
import select
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import StringIO
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy as sa

from benchmarks.wire import WireProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection

TIMEOUT_SECONDS = 10


def proxy_to(dsn: str, delay_seconds: float = 0.0) -> WireProxy:
    url = urlsplit(dsn)
    assert url.hostname is not None
    return WireProxy(url.hostname, url.port or 5432, delay_seconds)


@pytest.fixture
def proxy(tcp_dsn: str) -> Iterator[WireProxy]:
    with proxy_to(tcp_dsn) as running:
        yield running


@pytest.fixture
def dsn(proxy: WireProxy, tcp_dsn: str) -> str:
    return proxy.dsn(tcp_dsn)


@pytest.fixture
def connection(dsn: str, proxy: WireProxy) -> Iterator[Any]:
    """A psycopg2 connection in autocommit, with a temporary table `t`."""
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        connection.cursor().execute("CREATE TEMPORARY TABLE t (x int PRIMARY KEY)")
        proxy.reset()
        yield connection


@pytest.fixture
def modern(dsn: str, proxy: WireProxy) -> Iterator[psycopg.Connection]:
    """A psycopg 3 connection in autocommit, with a temporary table `t`."""
    with closing(psycopg.connect(dsn, autocommit=True)) as connection:
        connection.execute("CREATE TEMPORARY TABLE t (x int PRIMARY KEY)")
        proxy.reset()
        yield connection


def test_bare_psycopg2_transaction(proxy: WireProxy, connection: Any) -> None:
    connection.autocommit = False
    connection.cursor().execute("INSERT INTO t VALUES (1)")
    connection.commit()
    count = proxy.snapshot()
    assert count.round_trips == 3
    assert count.queries == ["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"]
    assert count.messages == {"Query": 3}


def test_connecting_is_no_round_trip(proxy: WireProxy, dsn: str) -> None:
    psycopg2.connect(dsn).close()
    count = proxy.snapshot()
    assert count.round_trips == 0
    assert count.connections == 1
    assert count.messages["Startup"] == count.messages["Terminate"] == 1
    assert count.bytes_sent > 0
    assert count.bytes_received > 0


def test_client_that_asks_for_encryption_is_counted(proxy: WireProxy, tcp_dsn: str) -> None:
    where: dict[str, Any] = {"host": proxy.host, "port": proxy.port, "sslmode": "prefer"}
    with closing(psycopg2.connect(tcp_dsn, **where)) as connection:
        connection.cursor().execute("SELECT 1")
    count = proxy.snapshot()
    assert count.messages["SSLRequest"] == 1
    assert count.queries == ["BEGIN", "SELECT 1"]


def test_psycopg_pipeline_is_one_round_trip(proxy: WireProxy, modern: psycopg.Connection) -> None:
    with modern.pipeline():
        for number in range(3):
            modern.execute("INSERT INTO t VALUES (%s)", [number])
    count = proxy.snapshot()
    assert count.round_trips == 1
    assert count.queries == ["INSERT INTO t VALUES ($1)"] * 3
    assert count.messages["Execute"] == 3


def test_psycopg_pipeline_with_several_syncs_in_a_flush(
    proxy: WireProxy, modern: psycopg.Connection
) -> None:
    pgconn = modern.pgconn
    pgconn.enter_pipeline_mode()
    for _ in range(3):
        pgconn.send_query_params(b"SELECT 1", None)
        pgconn.pipeline_sync()
    for _ in range(3):
        while pgconn.get_result():
            pass
        assert pgconn.get_result() is not None
    pgconn.exit_pipeline_mode()
    count = proxy.snapshot()
    assert count.messages["Sync"] == 3
    assert count.round_trips == 1


def test_psycopg_pipeline_waits_for_each_fetch(
    proxy: WireProxy, modern: psycopg.Connection
) -> None:
    with modern.pipeline():
        for number in range(3):
            assert modern.execute("SELECT %s::int", [number]).fetchone() == (number,)
    # The end of the block sends a Sync of its own.
    assert proxy.snapshot().round_trips == 4


def test_large_pipeline_is_one_round_trip(proxy: WireProxy, modern: psycopg.Connection) -> None:
    rows = [(number,) for number in range(20_000)]
    modern.cursor().executemany("INSERT INTO t VALUES (%s)", rows)
    count = proxy.snapshot()
    assert count.messages["Execute"] == len(rows)
    assert count.round_trips == 1


def test_copy_in_is_two_round_trips(
    proxy: WireProxy, connection: Any, modern: psycopg.Connection
) -> None:
    proxy.reset()
    connection.cursor().copy_expert("COPY t FROM STDIN", StringIO("1\n2\n"))
    assert proxy.snapshot().round_trips == 2
    proxy.reset()
    with modern.cursor().copy("COPY t FROM STDIN") as copy:
        for number in range(5_000):
            copy.write_row([number])
    assert proxy.snapshot().round_trips == 2


def test_copy_out_is_one_round_trip(proxy: WireProxy, connection: Any) -> None:
    target = StringIO()
    command = "COPY (SELECT generate_series(1, 100000)) TO STDOUT"
    connection.cursor().copy_expert(command, target)
    assert proxy.snapshot().round_trips == 1
    assert target.getvalue().count("\n") == 100_000


def test_asyncpg(proxy: WireProxy, dsn: str) -> None:
    async def work() -> None:
        url = sa.make_url(dsn).set(drivername="postgresql", query={})
        connection = await asyncpg.connect(url.render_as_string(hide_password=False))
        proxy.reset()
        for number in range(3):
            assert await connection.fetchval("SELECT $1::int", number) == number
        await connection.close()

    asyncio.run(work())
    count = proxy.snapshot()
    assert count.queries == ["SELECT $1::int"]
    # One to prepare, one for each execution.
    assert count.round_trips == 4


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_sqlalchemy(proxy: WireProxy, tcp_dsn: str, driver: str) -> None:
    url = sa.make_url(tcp_dsn).set(drivername=f"postgresql+{driver}")
    engine = sa.create_engine(proxy.dsn(url.render_as_string(hide_password=False)))
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
        connection.commit()
        proxy.reset()
        connection.execute(sa.text("SELECT 2"))
        connection.commit()
    engine.dispose()
    count = proxy.snapshot()
    assert [sql.upper() for sql in count.queries] == ["BEGIN", "SELECT 2", "COMMIT"]
    assert count.round_trips == 3


def test_sqlalchemy_asyncpg(proxy: WireProxy, tcp_dsn: str) -> None:
    pytest.importorskip("greenlet")
    # SQLAlchemy's asyncio cannot be imported without greenlet.
    from sqlalchemy.ext.asyncio import create_async_engine

    async def select_number(connection: AsyncConnection) -> None:
        assert await connection.scalar(sa.text("SELECT 1")) == 1
        await connection.commit()

    async def work() -> None:
        url = sa.make_url(tcp_dsn).set(drivername="postgresql+asyncpg")
        engine = create_async_engine(proxy.dsn(url.render_as_string(hide_password=False)))
        async with engine.connect() as connection:
            await select_number(connection)
            proxy.reset()
            await select_number(connection)
        await engine.dispose()

    asyncio.run(work())
    assert proxy.snapshot().round_trips == 3


def run_select(connection: Any, rng: random.Random) -> int:
    connection.cursor().execute("SELECT generate_series(1, %s)", [rng.randrange(20_000)])
    return 1


def run_error(connection: Any, rng: random.Random) -> int:
    with pytest.raises(psycopg2.Error):
        connection.cursor().execute("SELECT 1; SELECT 1 / 0; SELECT 2")
    return 1


def run_notice(connection: Any, rng: random.Random) -> int:
    connection.cursor().execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    return 1


def run_transaction(connection: Any, rng: random.Random) -> int:
    statements = rng.randrange(5)
    connection.autocommit = False
    for _ in range(statements):
        connection.cursor().execute("SELECT 1")
    connection.rollback()
    connection.autocommit = True
    return statements + 2 if statements else 0


def run_large_query(connection: Any, rng: random.Random) -> int:
    connection.cursor().execute("SELECT length(%s)", ["x" * rng.randrange(3_000_000)])
    return 1


def run_copy_in(connection: Any, rng: random.Random) -> int:
    rows = "\n".join(map(str, range(rng.randrange(1, 50_000))))
    connection.cursor().copy_expert("COPY t FROM STDIN", StringIO(rows))
    connection.cursor().execute("TRUNCATE t")
    return 3


def run_failing_copy_in(connection: Any, rng: random.Random) -> int:
    rows = "1\n" * rng.randrange(2, 200_000)
    with pytest.raises(psycopg2.Error):
        connection.cursor().copy_expert("COPY t FROM STDIN", StringIO(rows))
    return 2


def run_copy_out(connection: Any, rng: random.Random) -> int:
    command = f"COPY (SELECT generate_series(1, {rng.randrange(50_000)})) TO STDOUT"
    connection.cursor().copy_expert(command, StringIO())
    return 1


WORK: list[Callable[[Any, random.Random], int]] = [
    run_select,
    run_error,
    run_notice,
    run_transaction,
    run_large_query,
    run_copy_in,
    run_failing_copy_in,
    run_copy_out,
]


@pytest.mark.parametrize("seed", range(5))
def test_random_work_is_counted_exactly(proxy: WireProxy, connection: Any, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        work = rng.choice(WORK)
        proxy.reset()
        expected = work(connection, rng)
        assert (work.__name__, proxy.snapshot().round_trips) == (work.__name__, expected)


@pytest.mark.parametrize("seed", range(5))
def test_random_pipelines_are_counted_exactly(
    proxy: WireProxy, modern: psycopg.Connection, seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(20):
        proxy.reset()
        fetches = [rng.random() < 0.3 for _ in range(rng.randrange(1, 30))]
        with modern.pipeline():
            for is_fetched in fetches:
                sql = "SELECT generate_series(1, %s)"
                cursor = modern.execute(sql, [rng.randrange(1, 3_000)])
                if is_fetched:
                    cursor.fetchone()
        # Each fetch is waited on, and so is the Sync at the end of the block.
        assert proxy.snapshot().round_trips == sum(fetches) + 1


def test_parallel_connections_are_counted_exactly(proxy: WireProxy, dsn: str) -> None:
    def work(number: int) -> None:
        with closing(psycopg2.connect(dsn)) as connection:
            connection.autocommit = True
            for _ in range(50):
                connection.cursor().execute(f"SELECT {number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    count = proxy.snapshot()
    assert (count.round_trips, count.connections) == (400, 8)
    assert set(Counter(count.queries).values()) == {50}


def test_large_data_arrives_whole(connection: Any) -> None:
    text = "abcdefgh" * 2_000_000
    cursor = connection.cursor()
    cursor.execute("SELECT %s", [text])
    assert cursor.fetchone() == (text,)


def test_delay_is_added_to_each_round_trip(tcp_dsn: str) -> None:
    with (
        proxy_to(tcp_dsn, delay_seconds=0.005) as proxy,
        closing(psycopg2.connect(proxy.dsn(tcp_dsn))) as connection,
    ):
        connection.autocommit = True
        start = monotonic()
        for _ in range(20):
            connection.cursor().execute("SELECT 1")
        assert monotonic() - start >= 20 * 0.005
        assert proxy.snapshot().round_trips == 20


def test_delayed_data_arrives_whole_and_in_order(tcp_dsn: str) -> None:
    with (
        proxy_to(tcp_dsn, delay_seconds=0.002) as proxy,
        closing(psycopg2.connect(proxy.dsn(tcp_dsn))) as connection,
    ):
        text = "".join(map(str, range(1_000_000)))
        cursor = connection.cursor()
        cursor.execute("SELECT %s", [text])
        assert cursor.fetchone() == (text,)


def test_killed_connections_raise(proxy: WireProxy, connection: Any, dsn: str) -> None:
    proxy.kill_connections()
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT 1")
    psycopg2.connect(dsn).close()


def test_killed_transaction_is_rolled_back(
    proxy: WireProxy, modern: psycopg.Connection, tcp_dsn: str
) -> None:
    backend = modern.info.backend_pid
    modern.execute("BEGIN")
    proxy.kill_connections()
    with pytest.raises(psycopg.OperationalError):
        modern.execute("SELECT 1")
    with closing(psycopg.connect(tcp_dsn)) as observer:
        wait_until(lambda: not is_alive(observer, backend))


def is_alive(observer: psycopg.Connection, backend: int) -> bool:
    observer.rollback()
    found = observer.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [backend])
    return found.fetchone() is not None


def wait_until(is_met: Callable[[], bool]) -> None:
    deadline = monotonic() + TIMEOUT_SECONDS
    while not is_met():
        assert monotonic() < deadline
        sleep(0.01)


def test_client_notices_that_the_server_closed(connection: Any, tcp_dsn: str) -> None:
    backend = connection.info.backend_pid
    with closing(psycopg.connect(tcp_dsn)) as observer:
        observer.execute("SELECT pg_terminate_backend(%s)", [backend])
    readable, _, _ = select.select([connection], [], [], TIMEOUT_SECONDS)
    assert readable
    with pytest.raises(psycopg2.OperationalError):
        connection.cursor().execute("SELECT 1")


def test_paused_answers_come_after_resume(proxy: WireProxy, connection: Any) -> None:
    proxy.pause()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(connection.cursor().execute, "SELECT 1")
        try:
            with pytest.raises(TimeoutError):
                pending.result(0.1)
        finally:
            proxy.resume()
        pending.result(TIMEOUT_SECONDS)
    assert proxy.snapshot().round_trips == 1


def test_request_reaches_the_server_while_paused(
    proxy: WireProxy, modern: psycopg.Connection, tcp_dsn: str
) -> None:
    proxy.pause()
    modern.pgconn.send_query(b"SELECT pg_advisory_lock(4711)")
    with closing(psycopg.connect(tcp_dsn, autocommit=True)) as observer:
        held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND granted"
        wait_until(lambda: observer.execute(held).fetchone() is not None)
    proxy.resume()
    while modern.pgconn.get_result():
        pass


def test_reset_starts_from_nothing(proxy: WireProxy, connection: Any) -> None:
    connection.cursor().execute("SELECT 1")
    proxy.reset()
    count = proxy.snapshot()
    assert (count.round_trips, count.messages, count.queries) == (0, {}, [])
    assert (count.bytes_sent, count.bytes_received, count.connections) == (0, 0, 0)


def test_server_that_is_not_there_closes_the_connection(tcp_dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free_port = listener.getsockname()[1]
    with WireProxy("127.0.0.1", free_port) as proxy, pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(proxy.dsn(tcp_dsn))


def test_proxy_is_gone_after_its_block(tcp_dsn: str) -> None:
    with proxy_to(tcp_dsn) as proxy:
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port))
