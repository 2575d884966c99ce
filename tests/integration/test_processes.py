"""Forks and other ways of multiprocessing: no process talks on the sockets of another."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text

from onegov_orm import AsyncSessionManager, ForeignConnection, SessionManager
from tests.asynchronous import in_loop
from tests.clients import driver_of
from tests.conftest import ASYNC_DRIVERS, DRIVERS, Databases
from tests.models import Base, Document
from tests.processes import nobody_else_stays
from tests.replication import Replicated, wait_until

#: Python 3.12 and later say so to whoever forks in the presence of threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

BERN, BASEL = "towns-bern", "towns-basel"
BACKEND = text("SELECT pg_backend_pid()")
OWNERS = text("SELECT owner FROM documents")
CHILD_SECONDS = 60

#: Nobody has to try again because of others.
CALM = {"isolation_level": "READ COMMITTED"}


class Child:
    """A forked process that does something and tells how it went."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writing)
            return
        # whatever happens, the child must never return into the test
        try:
            signal.alarm(CHILD_SECONDS)
            try:
                outcome = work()
            except BaseException as error:
                traceback.print_exc()
                outcome = type(error).__name__
            os.write(writing, pickle.dumps(outcome))
        finally:
            os._exit(0)

    def result(self) -> Any:
        """Wait for the end, and return what the work returned, or the name of its error."""
        with os.fdopen(self._reading, "rb") as pipe:
            told = pipe.read()
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "the child did not end by itself"
        return pickle.loads(told)


def use(mgr: SessionManager, schema: str) -> tuple[int, set[str]]:
    """Write and read; return the backend and the owners that were found."""
    with mgr.schema(schema) as session:
        session.add(Document(owner=schema))
        session.flush()
        return session.scalar(BACKEND), set(session.scalars(OWNERS))


async def use_async(mgr: AsyncSessionManager, schema: str) -> tuple[int, set[str]]:
    async with mgr.schema(schema) as session:
        session.add(Document(owner=schema))
        await session.flush()
        return await session.scalar(BACKEND), set(await session.scalars(OWNERS))


@pytest.fixture
def dsn(newest: Databases, driver: str) -> Iterator[str]:
    """The URL of a database; the server's version does not matter to forks."""
    name = newest.create()
    yield newest.server.dsn(name, driver=driver, tcp=False)
    newest.drop(name)


@pytest.fixture
def mgr(dsn: str, new_manager: Callable[..., SessionManager]) -> SessionManager:
    """A manager whose connection was used, and is in the pool."""
    mgr = new_manager(dsn, Base, **CALM, transaction_manager=None)
    for name in (BERN, BASEL):
        use(mgr, name)
    return mgr


# -- a synchronous program


def test_each_child_has_connections_of_its_own(mgr):
    backend, _ = use(mgr, BERN)
    children = [Child(lambda name=name: use(mgr, name)) for name in (BERN, BASEL, "towns-zug")]
    results = [child.result() for child in children]
    assert [owners for _, owners in results] == [{BERN}, {BASEL}, {"towns-zug"}]
    assert len({backend, *(pid for pid, _ in results)}) == 4
    assert use(mgr, BERN) == (backend, {BERN})


def test_a_parent_goes_on_in_its_transaction(mgr):
    with mgr.schema(BERN) as session:
        session.add(Document(owner=BERN, title="not yet committed"))
        session.flush()
        backend = session.scalar(BACKEND)
        _, owners = Child(lambda: use(mgr, BASEL)).result()
        assert owners == {BASEL}
        assert session.scalar(BACKEND) == backend
        assert session.scalar(text("SELECT count(*) FROM documents")) == 2
    assert Child(lambda: use(mgr, BERN)).result()[1] == {BERN}


def test_a_current_schema_is_inherited(mgr):
    mgr.set_current_schema(BERN)

    def work():
        return mgr.current_schema, mgr.session().scalar(text("SELECT current_schema()"))

    assert Child(work).result() == (BERN, BERN)


WAYS_TO_GO_ON = {
    "execute": lambda connection: connection.execute(text("SELECT 1")),
    "commit": lambda connection: connection.commit(),
    "commit of the driver": lambda connection: driver_of_(connection).commit(),
    "cursor of the driver": lambda connection: driver_of_(connection).cursor().execute("SELECT 1"),
    "savepoint": lambda connection: (connection.begin_nested(), connection.exec_driver_sql("x")),
    "commit of a prepared one": lambda connection: driver_of_(connection).tpc_commit("x"),
}


def driver_of_(connection: Any) -> Any:
    return connection.connection.driver_connection


@pytest.mark.parametrize("way", WAYS_TO_GO_ON)
def test_a_child_can_not_use_what_it_inherited(mgr, way):
    engine = mgr.engine.execution_options(schema=BERN)
    with engine.connect() as connection:
        number = connection.scalar(text("SELECT txid_current()"))
        outcome = Child(lambda: WAYS_TO_GO_ON[way](connection)).result()
        assert outcome == ForeignConnection.__name__
        assert connection.scalar(text("SELECT txid_current()")) == number


@pytest.mark.parametrize("way", ["rollback", "close", "invalidate"])
def test_a_child_lets_go_of_what_it_inherited(mgr, way):
    with mgr.engine.execution_options(schema=BERN).connect() as connection:
        number = connection.scalar(text("SELECT txid_current()"))
        assert Child(lambda: getattr(connection, way)()).result() is None
        assert connection.scalar(text("SELECT txid_current()")) == number


def test_a_stream_goes_on_in_the_parent_alone(mgr):
    options = {"stream_results": True, "max_row_buffer": 1}
    with mgr.engine.execution_options(schema=BERN).connect() as connection:
        rows = connection.execution_options(**options).execute(
            text("SELECT * FROM generate_series(1, 100)")
        )
        assert rows.fetchmany(2) == [(1,), (2,)]

        def work():
            with suppress(StopIteration):
                # what was read ahead may be there
                while rows.fetchone():
                    pass

        assert Child(work).result() in (ForeignConnection.__name__, "ProgrammingError")
        assert len(rows.fetchall()) == 98


def test_garbage_of_a_child_hurts_nobody(mgr):
    kept = [mgr.engine.connect() for _ in range(3)]
    backends = [connection.scalar(BACKEND) for connection in kept]

    def work():
        kept.clear()
        gc.collect()
        mgr.dispose()
        gc.collect()
        return use(mgr, BASEL)[1]

    assert Child(work).result() == {BASEL}
    assert [connection.scalar(BACKEND) for connection in kept] == backends
    for connection in kept:
        connection.close()


def test_a_child_forks_again(mgr):
    def work():
        mine, _ = use(mgr, BERN)
        of_child, owners = Child(lambda: use(mgr, BASEL)).result()
        return mine, of_child, owners, use(mgr, BERN)[0]

    mine, of_child, owners, mine_again = Child(work).result()
    assert (owners, mine) == ({BASEL}, mine_again)
    assert len({use(mgr, BERN)[0], mine, of_child}) == 3


def test_a_fork_while_threads_wait_for_a_connection(dsn, new_manager):
    pool = {"pool_size": 1, "max_overflow": 0}
    mgr = new_manager(dsn, Base, **CALM, transaction_manager=None, pool_config=pool)
    use(mgr, BERN)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(use(mgr, BERN)[1])) for _ in range(3)]
    with mgr.engine.connect():
        for thread in threads:
            thread.start()
        wait_until(lambda: len(mgr.engine.pool._pool._line) == 3, "nobody waits")
        assert Child(lambda: use(mgr, BASEL)[1]).result() == {BASEL}
    for thread in threads:
        thread.join()
    assert found == [{BERN}] * 3


def test_children_leave_no_connection_behind(mgr, dsn, outside):
    for _ in range(3):
        Child(lambda: use(mgr, BERN)).result()
    mgr.dispose()
    assert nobody_else_stays(outside(dsn))


# -- multiprocessing


def work_with_dsn(dsn: str, schema: str) -> tuple[int, set[str]]:
    """Use a manager of the process's own; has to be importable."""
    mgr = SessionManager(dsn, Base, **CALM, transaction_manager=None)
    try:
        return use(mgr, schema)
    finally:
        mgr.dispose()


def work_with_dsn_async(dsn: str, schema: str) -> tuple[int, set[str]]:
    async def main() -> tuple[int, set[str]]:
        mgr = AsyncSessionManager(dsn, Base, **CALM)
        try:
            return await use_async(mgr, schema)
        finally:
            await mgr.dispose()

    return asyncio.run(main())


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_with_managers_of_their_own(mgr, dsn, method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        results = pool.starmap(work_with_dsn, [(dsn, BERN), (dsn, BASEL)] * 2)
    assert [owners for _, owners in results] == [{BERN}, {BASEL}] * 2
    assert use(mgr, BERN)[0] not in {pid for pid, _ in results}


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_with_asynchronous_managers_of_their_own(async_plain_dsn, method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        results = pool.starmap(
            work_with_dsn_async, [(async_plain_dsn, BERN), (async_plain_dsn, BASEL)]
        )
    assert [owners for _, owners in results] == [{BERN}, {BASEL}]


def work_with_manager(mgr: SessionManager, queue: Any, schema: str) -> None:
    for _ in range(5):
        queue.put((schema, *use(mgr, schema)))


def test_forked_processes_use_the_manager_at_once(mgr):
    """Such as the workers of gunicorn, whose application was loaded before the fork."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    names = [BERN, BASEL, "towns-zug"]
    workers = [
        context.Process(target=work_with_manager, args=(mgr, queue, name)) for name in names
    ]
    for worker in workers:
        worker.start()
    mine = [use(mgr, BERN) for _ in range(5)]
    told = [queue.get(timeout=CHILD_SECONDS) for _ in range(15)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert {owner for _, owners in mine for owner in owners} == {BERN}
    assert all(owners == {schema} for schema, _, owners in told)
    assert len({pid for _, pid, _ in told} | {pid for pid, _ in mine}) == 4


@pytest.mark.parametrize("kind", [SessionManager, AsyncSessionManager])
def test_a_manager_can_not_be_pickled(kind):
    mgr = kind("postgresql://localhost/nowhere", Base)
    message = f"{kind.__name__} can't be pickled: make one in each process"
    with pytest.raises(TypeError, match=message):
        pickle.dumps(mgr)
    context = multiprocessing.get_context("spawn")
    with pytest.raises(TypeError, match=message):
        context.Process(target=print, args=(mgr,)).start()


# -- an asynchronous program


def run_anew(work: Callable[[], Any]) -> Any:
    """Run a coroutine function in the child's own loop."""
    return asyncio.run(work())


@in_loop
async def test_a_fork_inside_a_running_loop(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base, **CALM)
    backend, _ = await use_async(mgr, BERN)
    await use_async(mgr, BASEL)
    children = [
        Child(lambda name=name: run_anew(lambda: use_async(mgr, name))) for name in (BERN, BASEL)
    ]
    results = [await asyncio.to_thread(child.result) for child in children]
    assert [owners for _, owners in results] == [{BERN}, {BASEL}]
    assert backend not in {pid for pid, _ in results}
    assert await use_async(mgr, BERN) == (backend, {BERN})


@in_loop
async def test_a_loop_goes_on_after_its_children(async_plain_dsn, new_async_manager):
    """A child that touches the selector of its parent's loop would silence the parent."""
    mgr = new_async_manager(async_plain_dsn, Base, **CALM)
    async with mgr.schema(BERN) as session:
        session.add(Document(owner=BERN))
        await session.flush()
        backend = await session.scalar(BACKEND)

        async def work():
            await use_async(mgr, BASEL)
            await mgr.dispose()
            gc.collect()
            return "done"

        for _ in range(2):
            assert Child(lambda: run_anew(work)).result() == "done"
        async with asyncio.timeout(30):
            assert await session.scalar(BACKEND) == backend
            await asyncio.to_thread(lambda: None)
    assert (await use_async(mgr, BERN))[1] == {BERN}


@in_loop
async def test_a_child_can_not_use_what_a_task_has(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(async_plain_dsn, Base, **CALM)
    await use_async(mgr, BERN)
    async with mgr.engine.execution_options(schema=BERN).connect() as connection:
        number = await connection.scalar(text("SELECT txid_current()"))

        async def execute():
            await connection.execute(text("SELECT 1"))

        for way in (execute, connection.commit):
            outcome = Child(lambda way=way: run_anew(way)).result()
            assert outcome == ForeignConnection.__name__
        assert await connection.scalar(text("SELECT txid_current()")) == number


@in_loop
async def test_a_fork_while_tasks_wait_and_work(async_plain_dsn, new_async_manager):
    mgr = new_async_manager(
        async_plain_dsn, Base, **CALM, pool_config={"pool_size": 2, "max_overflow": 0}
    )
    for name in (BERN, BASEL):
        await use_async(mgr, name)
    tasks = [asyncio.create_task(use_async(mgr, (BERN, BASEL)[n % 2])) for n in range(12)]
    children = []
    for _ in range(3):
        await asyncio.sleep(0)
        children.append(Child(lambda: run_anew(lambda: use_async(mgr, "towns-zug"))))
    results = await asyncio.gather(*tasks)
    assert [owners for _, owners in results] == [{BERN}, {BASEL}] * 6
    assert [(await asyncio.to_thread(it.result))[1] for it in children] == [{"towns-zug"}] * 3


def test_a_loop_that_is_over_is_no_obstacle(async_plain_dsn):
    """The application prepares itself in a loop, and forks workers with loops of their own."""
    mgr = AsyncSessionManager(async_plain_dsn, Base, **CALM)

    async def prepare():
        await use_async(mgr, BERN)
        await mgr.dispose()

    async def work():
        found = await asyncio.gather(*(use_async(mgr, name) for name in (BERN, BASEL)))
        await mgr.dispose()
        return [owners for _, owners in found]

    asyncio.run(prepare())
    children = [Child(lambda: run_anew(work)) for _ in range(3)]
    mine = asyncio.run(work())
    assert [mine, *(child.result() for child in children)] == [[{BERN}, {BASEL}]] * 4


PRELOADED = """
    import asyncio, os, sys
    from sqlalchemy import text
    from onegov_orm import AsyncSessionManager, SessionManager
    from tests.models import Base, Document

    dsn, kind, disposes = sys.argv[1], sys.argv[2], sys.argv[3] == "True"

    if kind == "async":
        mgr = AsyncSessionManager(dsn, Base, isolation_level="READ COMMITTED")

        async def main(name, disposes):
            async with mgr.schema(name) as session:
                session.add(Document(owner=name))
                await session.flush()
                found = set(await session.scalars(text("SELECT owner FROM documents")))
            if disposes:
                await mgr.dispose()
            assert found == {name}, found

        def use(name, disposes):
            asyncio.run(main(name, disposes))
    else:
        mgr = SessionManager(
            dsn, Base, isolation_level="READ COMMITTED", transaction_manager=None
        )
        kept = mgr.engine.connect()
        backend = kept.scalar(text("SELECT pg_backend_pid()"))

        def use(name, disposes):
            with mgr.schema(name) as session:
                session.add(Document(owner=name))
                session.flush()
                found = set(session.scalars(text("SELECT owner FROM documents")))
            if disposes and name != "towns-parent":
                mgr.dispose()
            assert found == {name}, found

    use("towns-parent", True)
    children = []
    for number in range(3):
        pid = os.fork()
        if pid == 0:
            use(f"towns-{number}", disposes)
            sys.exit(7)  # with all that the interpreter does at its end
        children.append(pid)
    use("towns-parent", True)
    for pid in children:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    use("towns-parent", True)
    if kind == "sync":
        assert kept.scalar(text("SELECT pg_backend_pid()")) == backend
        kept.close()
        mgr.dispose()
    print("done")
"""


@pytest.mark.parametrize("disposes", [True, False])
@pytest.mark.parametrize(
    ("kind", "driver"),
    [*(("sync", name) for name in DRIVERS), *(("async", name) for name in ASYNC_DRIVERS)],
)
def test_workers_of_a_loaded_application_end_normally(newest, tcp_dsn, kind, driver, disposes):
    dsn = tcp_dsn.replace("postgresql://", f"postgresql+{driver_of(driver)}://")
    program = [sys.executable, "-W", "error", "-W", "ignore:.*fork.*:DeprecationWarning"]
    if not disposes:
        program += ["-W", "ignore::ResourceWarning"]
    done = subprocess.run(
        [*program, "-c", textwrap.dedent(PRELOADED), dsn, kind, str(disposes)],
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    if disposes:
        assert done.stderr == ""


# -- replicas


@pytest.fixture
def replicated_database(replicated: Replicated) -> Iterator[str]:
    name = replicated.primary.create()
    yield name
    replicated.primary.drop(name)


def read(mgr: SessionManager, schema: str) -> tuple[int, bool, set[str]]:
    with mgr.schema(schema, readonly=True) as session:
        is_standby = session.scalar(text("SELECT pg_is_in_recovery()"))
        return session.scalar(BACKEND), is_standby, set(session.scalars(OWNERS))


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_child_reads_from_replicas_of_its_own(
    replicated, replicated_database, new_manager, driver
):
    database = replicated_database
    mgr = new_manager(
        replicated.primary.server.dsn(database, driver=driver, tcp=False),
        Base,
        **CALM,
        transaction_manager=None,
        replicas=[standby.dsn(database, driver=driver) for standby in replicated.standbys],
    )
    use(mgr, BERN)
    replicated.wait_until_caught_up()

    def work():
        wait_until(reads_from_standby, "nobody reads from a standby")
        return threading_free(lambda: read(mgr, BERN))

    def reads_from_standby():
        mgr.check_replicas()
        return threading_free(lambda: read(mgr, BERN))[1]

    wait_until(reads_from_standby, "nobody reads from a standby")
    results = [Child(work).result() for _ in range(2)]
    assert [owners for _, _, owners in results] == [{BERN}] * 2
    mine = {threading_free(lambda: read(mgr, BERN))[0] for _ in range(4)}
    assert not mine & {pid for pid, _, _ in results}


def threading_free(work: Callable[[], Any]) -> Any:
    """Do it in a thread of its own, which has written nothing that it had to see."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("driver", ASYNC_DRIVERS)
@in_loop
async def test_a_child_of_a_loop_reads_from_replicas_of_its_own(
    replicated, replicated_database, new_async_manager, driver
):
    database = replicated_database
    mgr = new_async_manager(
        replicated.primary.server.dsn(database, driver=driver, tcp=False),
        Base,
        **CALM,
        replicas=[standby.dsn(database, driver=driver) for standby in replicated.standbys],
    )

    async def read_async():
        async with mgr.schema(BERN, readonly=True) as session:
            return await session.scalar(BACKEND), set(await session.scalars(OWNERS))

    await use_async(mgr, BERN)
    await mgr.check_replicas()
    # a check is on its way when the child is made
    mgr.replicas._launch(mgr.replicas.check)

    async def work():
        await mgr.check_replicas()
        found = await read_async()
        await mgr.dispose()
        return found

    child = Child(lambda: run_anew(work))
    mine = {(await read_async())[0] for _ in range(4)}
    pid, owners = await asyncio.to_thread(child.result)
    assert owners == {BERN}
    assert pid not in mine
