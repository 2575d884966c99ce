"""More threads and tasks than connections: they wait in turn, and the error names the holders."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import psycopg2
import pytest
import sqlalchemy.exc
import transaction
from sqlalchemy import text

from onegov_orm import PoolExhausted
from onegov_orm.embedded import EmbeddedServer
from tests.asynchronous import in_loop, out, until
from tests.conftest import ASYNC_DRIVERS, DRIVERS, NEWEST, Databases
from tests.models import Base, Document
from tests.replication import wait_until

#: What the server has for everybody, superusers included.
SERVER_CONNECTIONS = 20
CROWD = 200
POOL_OF_TEN = {"pool_size": 5, "max_overflow": 5, "pool_timeout": 60}
TINY = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
PATIENT = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 60}
TOWNS = [f"towns-{number}" for number in range(5)]

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def small(newest: Databases) -> Iterator[Databases]:
    """A server that has few connections."""
    settings = {"max_connections": str(SERVER_CONNECTIONS), "shared_buffers": "16MB"}
    with EmbeddedServer(version=NEWEST, settings=settings) as server:
        databases = Databases(server)
        yield databases
        databases.close()


@pytest.fixture
def small_dsn(small: Databases) -> Iterator[Callable[[str], str]]:
    """The URL of a database there, for a driver."""
    name = small.create()
    yield lambda driver: small.server.dsn(name, driver=driver, tcp=False)
    small.drop(name)


def in_threads(number: int, work: Callable[[int], None]) -> None:
    """Run the work in threads, and raise the first error of them."""
    errors: list[BaseException] = []

    def guarded(mine: int) -> None:
        try:
            work(mine)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(mine,)) for mine in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# -- a crowd


@pytest.mark.parametrize("driver", DRIVERS)
def test_two_hundred_threads_wait_in_turn(small_dsn, new_manager, driver):
    mgr = new_manager(small_dsn(driver), Base, pool_config=POOL_OF_TEN)
    for name in TOWNS:
        mgr.ensure_schema_exists(name)
    most = Counter()

    def work(number):
        name = TOWNS[number % len(TOWNS)]
        with mgr.schema(name) as session:
            owner = session.scalar(text("SELECT current_schema()"))
            most[len(mgr._holders.list())] += 1
            assert owner == name

    in_threads(CROWD, work)
    assert sum(most.values()) == CROWD
    assert max(most) <= 10
    assert mgr._holders.list() == []
    assert mgr.engine.pool.checkedout() == 0


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
@in_loop
async def test_two_hundred_tasks_wait_in_turn(small_dsn, new_async_manager, driver):
    mgr = new_async_manager(small_dsn(driver), Base, pool_config=POOL_OF_TEN)
    for name in TOWNS:
        await mgr.ensure_schema_exists(name)
    most = Counter()

    async def work(number):
        name = TOWNS[number % len(TOWNS)]
        async with mgr.schema(name) as session:
            owner = await session.scalar(text("SELECT current_schema()::text"))
            most[len(mgr._holders.list())] += 1
            assert owner == name

    await asyncio.gather(*(work(number) for number in range(CROWD)))
    assert sum(most.values()) == CROWD
    assert max(most) <= 10
    assert (mgr._holders.list(), out(mgr)) == ([], 0)


def test_nobody_is_overtaken_by_who_comes_again(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base, pool_config=PATIENT)
    greedy, modest = threading.Event(), threading.Event()
    turns = []

    def come_again():
        while not modest.is_set():
            with mgr.engine.connect():
                turns.append("greedy")
                greedy.set()

    def come_once():
        greedy.wait()
        # whoever has the connection now, and the one who waits already
        turns.clear()
        with mgr.engine.connect():
            modest.set()

    crowd = [threading.Thread(target=come_again) for _ in range(3)]
    for thread in crowd:
        thread.start()
    come_once()
    for thread in crowd:
        thread.join()
    assert len(turns) <= 4 + len(crowd) * 2


@pytest.mark.parametrize("uses_lifo", [False, True])
def test_threads_are_served_in_the_order_they_came(plain_dsn, new_manager, uses_lifo):
    mgr = new_manager(plain_dsn, Base, pool_config={**PATIENT, "pool_use_lifo": uses_lifo})
    queue = mgr.engine.pool._pool
    served: list[int] = []

    def wait(number):
        with mgr.engine.connect():
            served.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(10)]
    with mgr.engine.connect():
        for number, thread in enumerate(threads):
            thread.start()
            wait_until(lambda seen=number + 1: len(queue._line) == seen, "nobody waits")
    for thread in threads:
        thread.join()
    assert served == list(range(10))


@pytest.mark.parametrize("uses_lifo", [False, True])
@in_loop
async def test_tasks_are_served_in_the_order_they_came(
    async_plain_dsn, new_async_manager, uses_lifo
):
    pool = {**PATIENT, "pool_use_lifo": uses_lifo}
    mgr = new_async_manager(async_plain_dsn, Base, pool_config=pool)
    served: list[int] = []

    async def wait(number):
        for _ in range(2):
            async with mgr.engine.connect():
                served.append(number)

    async with mgr.engine.connect():
        tasks = [asyncio.create_task(wait(number)) for number in range(5)]
        await until(lambda: len(mgr.sync_engine.pool._pool._queue._line) == 5)
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2, 3, 4] * 2


# -- the wait is over


def test_who_waited_too_long_leaves_the_line(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base, pool_config=TINY)
    with mgr.engine.connect():
        for _ in range(3):
            with pytest.raises(PoolExhausted):
                mgr.engine.connect()
    with mgr.engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    assert mgr.engine.pool.checkedin() == 1


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_error_names_each_thread(small_dsn, new_manager, driver):
    pool = {"pool_size": 2, "max_overflow": 1, "pool_timeout": 0.05}
    mgr = new_manager(small_dsn(driver), Base, pool_config=pool)
    barrier, done = threading.Barrier(3), threading.Event()

    def hold(name):
        with mgr.schema(name) as session:
            session.execute(text("SELECT 1"))
            barrier.wait(30)
            done.wait(30)

    names = ("towns-bern", "towns-basel")
    for name in names:
        mgr.ensure_schema_exists(name)
    threads = [threading.Thread(target=hold, args=(name,), name=f"for {name}") for name in names]
    for thread in threads:
        thread.start()
    with mgr.engine.connect():
        barrier.wait(30)
        with pytest.raises(PoolExhausted) as caught:
            mgr.engine.connect()
    done.set()
    for thread in threads:
        thread.join()
    holders = {(holder.schema, holder.owner) for holder in caught.value.holders}
    assert holders == {
        (None, "thread MainThread"),
        ("towns-bern", "thread for towns-bern"),
        ("towns-basel", "thread for towns-basel"),
    }
    assert not any(holder.is_gone for holder in caught.value.holders)
    for schema, owner in holders - {(None, "thread MainThread")}:
        assert f'schema "{schema}", {owner}, for ' in str(caught.value)


@in_loop
async def test_the_error_names_each_task(async_plain_dsn, new_async_manager):
    pool = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 0.05}
    mgr = new_async_manager(async_plain_dsn, Base, pool_config=pool)
    done = asyncio.Event()

    async def hold(name):
        async with mgr.schema(name) as session:
            await session.execute(text("SELECT 1"))
            await done.wait()

    names = ("towns-bern", "towns-basel")
    for name in names:
        await mgr.ensure_schema_exists(name)
    tasks = [asyncio.create_task(hold(name), name=f"for {name}") for name in names]
    await until(lambda: out(mgr) == 2)
    with pytest.raises(PoolExhausted, match='schema "towns-bern", task for towns-bern') as caught:
        async with mgr.engine.connect():
            pass
    done.set()
    await asyncio.gather(*tasks)
    assert {(holder.schema, holder.owner) for holder in caught.value.holders} == {
        (name, f"task for {name}") for name in names
    }


# -- where it was taken


def test_the_place_is_known_where_asked_for(dsn, new_manager):
    mgr = new_manager(dsn, Base, pool_config=TINY, trace_connections=True)
    mgr.set_current_schema("towns-bern")

    def take_it():
        mgr.session().add(Document(owner="towns-bern"))
        mgr.session().flush()

    take_it()
    with pytest.raises(PoolExhausted) as caught:
        mgr.engine.connect()
    (holder,) = caught.value.holders
    line = take_it.__code__.co_firstlineno + 2
    assert holder.opened_at.startswith(f"test_exhaustion.py:{line} in take_it, from ")
    assert f"taken at test_exhaustion.py:{line} in take_it" in str(caught.value)


def test_the_place_is_not_looked_for_otherwise(plain_dsn, new_manager):
    mgr = new_manager(plain_dsn, Base, pool_config=TINY)
    with mgr.engine.connect():
        (holder,) = mgr._holders.list()
    assert holder.opened_at is None


async def take_it(mgr):
    await mgr.session().execute(text("SELECT 1"))


@in_loop
async def test_the_place_is_known_in_tasks(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Base, pool_config=TINY, trace_connections=True)
    await mgr.set_current_schema("towns-bern")

    async def view():
        await take_it(mgr)

    await view()
    with pytest.raises(PoolExhausted) as caught:
        async with mgr.engine.connect():
            pass
    (holder,) = caught.value.holders
    inner, outer = take_it.__code__.co_firstlineno + 1, view.__code__.co_firstlineno + 1
    assert holder.opened_at.startswith(
        f"test_exhaustion.py:{inner} in take_it, from test_exhaustion.py:{outer} in view"
    )


@in_loop
async def test_the_place_of_a_commit_is_known(async_dsn, new_async_manager):
    """The commit runs in a task of its own, which has no lines of the program."""
    mgr = new_async_manager(async_dsn, Base, pool_config=TINY, trace_connections=True)
    await mgr.ensure_schema_exists("towns-bern")
    places = []

    async def view():
        async with mgr.schema("towns-bern") as session:
            session.add(Document(owner="towns-bern"))

    mgr.on_insert.connect(lambda *_, **__: places.extend(mgr._holders.list()), weak=False)
    await view()
    assert "in view" in places[0].opened_at


@in_loop
async def test_the_place_of_an_async_connection_is_known(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Base, pool_config=TINY, trace_connections=True)
    async with mgr.engine.connect():
        (holder,) = mgr._holders.list()
    assert "test_the_place_of_an_async_connection_is_known" in holder.opened_at


# -- who forgot to give back


def test_a_dead_holder_is_found(dsn, new_manager):
    mgr = new_manager(dsn, Base, pool_config=TINY, trace_connections=True)
    kept = []

    def forget():
        kept.append(mgr.engine.execution_options(schema="towns-bern").connect())
        kept[0].execute(text("SELECT 1"))

    mgr.ensure_schema_exists("towns-bern")
    thread = threading.Thread(target=forget, name="forgetful")
    thread.start()
    thread.join()
    with pytest.raises(PoolExhausted, match=r"thread forgetful \(which is over\)") as caught:
        mgr.engine.connect()
    (holder,) = caught.value.holders
    assert (holder.schema, holder.is_gone) == ("towns-bern", True)
    assert "in forget" in holder.opened_at
    kept[0].close()


@in_loop
async def test_a_task_that_is_over_is_found(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Base, pool_config=TINY, trace_connections=True)
    kept = []

    async def forget():
        kept.append(await mgr.engine.execution_options(schema="towns-bern").connect())
        await kept[0].execute(text("SELECT 1"))

    await mgr.ensure_schema_exists("towns-bern")
    await asyncio.create_task(forget(), name="forgetful")
    with pytest.raises(PoolExhausted, match=r"task forgetful \(which is over\)") as caught:
        async with mgr.engine.connect():
            pass
    (holder,) = caught.value.holders
    assert holder.is_gone
    assert "in forget" in holder.opened_at
    await kept[0].close()


def test_what_nobody_refers_to_comes_back(dsn, new_manager):
    mgr = new_manager(dsn, Base, pool_config=TINY)
    for _ in range(3):
        mgr.engine.connect().execute(text("SELECT 1"))
        gc.collect()
    assert mgr._holders.list() == []


@in_loop
async def test_sessions_of_tasks_that_are_over_come_back(async_dsn, new_async_manager):
    mgr = new_async_manager(async_dsn, Base, pool_config=PATIENT)

    async def forget():
        await mgr.set_current_schema("towns-bern")
        await mgr.session().execute(text("SELECT 1"))

    for _ in range(3):
        await asyncio.create_task(forget())
    await until(lambda: out(mgr) == 0)
    assert mgr._holders.list() == []


# -- who gives up


@in_loop
async def test_who_is_cancelled_leaves_the_line(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base, pool_config=PATIENT)
    await mgr.ensure_schema_exists("towns-bern")

    async def wait():
        async with mgr.schema("towns-bern") as session:
            await session.execute(text("SELECT 1"))

    line = mgr.sync_engine.pool._pool._queue._line
    async with mgr.engine.connect():
        tasks = [asyncio.create_task(wait()) for _ in range(6)]
        await until(lambda: len(line) == 6)
        for task in tasks[::2]:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, type(None)] * 3
    assert (len(line), out(mgr)) == (0, 0)


@in_loop
async def test_who_is_served_and_cancelled_at_once_passes_it_on(
    async_plain_dsn, new_async_manager
):
    mgr = new_async_manager(async_plain_dsn, Base, pool_config=PATIENT)

    async def wait():
        async with mgr.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    queue = mgr.sync_engine.pool._pool._queue
    for _ in range(5):
        async with mgr.engine.connect():
            first, second = (asyncio.create_task(wait()) for _ in range(2))
            await until(lambda: len(queue._line) == 2)
        # the connection was handed to the first one, which has not run yet
        first.cancel()
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert results[1] is None
        assert out(mgr) == 0


# -- the server has no more


class Occupied:
    """Other programs have taken all of the server's connections, those for superusers too."""

    def __init__(self, dsn: str) -> None:
        self._stack = ExitStack()
        self._dsn = dsn

    def __enter__(self) -> None:
        while True:
            try:
                connection = psycopg2.connect(self._dsn)
            except psycopg2.OperationalError:
                return
            self._stack.enter_context(closing(connection))

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_server_has_no_more_connections(small_dsn, new_manager, driver):
    mgr = new_manager(small_dsn(driver), Base, pool_config=POOL_OF_TEN)
    mgr.ensure_schema_exists("towns-bern")
    mgr.engine.dispose()
    with Occupied(small_dsn("psycopg2").replace("+psycopg2", "")):
        for _ in range(12):
            with (
                pytest.raises(sqlalchemy.exc.OperationalError, match="too many clients"),
                mgr.schema("towns-bern") as session,
            ):
                session.execute(text("SELECT 1"))
            transaction.abort()
        assert (mgr._holders.list(), mgr.engine.pool.checkedout()) == ([], 0)

    def works():
        try:
            with mgr.schema("towns-bern") as session:
                return session.scalar(text("SELECT 1")) == 1
        except sqlalchemy.exc.OperationalError:
            return False

    wait_until(works, "the server has connections again")


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
@in_loop
async def test_the_server_has_no_more_connections_for_tasks(small_dsn, new_async_manager, driver):
    mgr = new_async_manager(small_dsn(driver), Base, pool_config=POOL_OF_TEN)
    await mgr.ensure_schema_exists("towns-bern")
    await mgr.engine.dispose()

    async def work():
        async with mgr.schema("towns-bern") as session:
            return await session.scalar(text("SELECT 1"))

    with Occupied(small_dsn("psycopg2").replace("+psycopg2", "")):
        results = await asyncio.gather(*(work() for _ in range(12)), return_exceptions=True)
        assert {"too many clients" in str(result) for result in results} == {True}
        assert (mgr._holders.list(), out(mgr)) == ([], 0)

    async def works():
        while True:
            try:
                return await work()
            except Exception as error:
                assert "too many clients" in str(error)  # noqa: PT017 until the server noticed

    assert await asyncio.wait_for(works(), 20) == 1


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_crowd_survives_a_server_that_is_nearly_full(small_dsn, new_manager, driver):
    """Some of the ten connections can't be opened: those who asked for them get the error."""
    mgr = new_manager(small_dsn(driver), Base, pool_config=POOL_OF_TEN)
    mgr.ensure_schema_exists("towns-bern")
    mgr.engine.dispose()
    outcomes: Counter[str] = Counter()

    def work(number):
        try:
            with mgr.schema("towns-bern") as session:
                session.execute(text("SELECT 1"))
            outcomes["done"] += 1
        except sqlalchemy.exc.OperationalError as error:
            assert "too many clients" in str(error)  # noqa: PT017 any number of them
            outcomes["refused"] += 1

    with ExitStack() as stack:
        for _ in range(SERVER_CONNECTIONS - 6):
            plain = small_dsn("psycopg2").replace("+psycopg2", "")
            stack.enter_context(closing(psycopg2.connect(plain)))
        in_threads(60, work)
    assert sum(outcomes.values()) == 60
    assert outcomes["done"] > 0
    assert (mgr._holders.list(), mgr.engine.pool.checkedout()) == ([], 0)
