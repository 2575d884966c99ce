"""Readers of tasks: each has its own, and reads what it wrote."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select, text

from onegov_orm import AsyncSessionManager, replicas
from tests.asynchronous import BASEL, BERN, in_loop, new_async_manager, out, settle, until
from tests.models import Base, Document
from tests.reading import new_manager
from tests.replication import Replicated, ask

COUNT = text("SELECT count(*) FROM documents")
SERVER = text("SELECT current_setting('cluster_name')")


@pytest.fixture(scope="module")
def database(replicated: Replicated) -> Iterator[str]:
    """A database on all servers."""
    name = replicated.primary.create()
    first = new_manager("psycopg2", replicated.primary.server, name)
    for schema in (BERN, BASEL):
        first.unit(lambda session: session.execute(COUNT), schema)
    first.close()
    yield name
    replicated.primary.drop(name)


@pytest.fixture(params=["asyncpg", "psycopg"])
def options(request: pytest.FixtureRequest, replicated: Replicated, database: str) -> Any:
    """What makes a manager that reads from the standbys."""
    driver = request.param
    return {
        "dsn": replicated.primary.server.dsn(database, driver=driver, tcp=False),
        "replicas": [each.dsn(database, driver=driver) for each in replicated.standbys],
    }


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all that is known renewed at once, so that standbys are used as soon as can be."""
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.0)


def routed(options: Any, **more: Any) -> AsyncSessionManager:
    return new_async_manager(base=Base, **options, **more)


async def count(mgr: AsyncSessionManager, schema: str) -> tuple[str, int]:
    """Return where the rows of a customer are read, and how many there are."""
    async with mgr.schema(schema, readonly=True) as session:
        name: str = await session.scalar(SERVER)
        owners = list(await session.scalars(select(Document.owner)))
        assert set(owners) <= {schema}
        return name, len(owners)


async def write(mgr: AsyncSessionManager, schema: str) -> None:
    async with mgr.schema(schema) as session:
        session.add(Document(owner=schema))


async def are_used(mgr: AsyncSessionManager, replicated: Replicated, *schemas: str) -> None:
    """Check the replicas until all these customers are read there, in this task."""
    for schema in schemas or (BERN, BASEL):
        while (await count(mgr, schema))[0] == "":
            ask(replicated.primary.server, "SELECT pg_logical_emit_message(true, 'tests', '')")
            await mgr.check_replicas()


@in_loop
async def test_tasks_have_readers_of_their_own(options: Any) -> None:
    mgr = await settle(routed(options))
    readers = set()

    async def work() -> None:
        readers.add(mgr.reader())
        await mgr.reader().scalar(COUNT)

    async with mgr.schema(BERN):
        readers.add(mgr.reader())
        await asyncio.gather(work(), work())
    assert len(readers) == 3


@in_loop
async def test_readers_of_tasks_that_ended_give_their_connections_back(options: Any) -> None:
    mgr = await settle(routed(options))

    async def work() -> None:
        async with asyncio.timeout(30):
            await mgr.set_current_schema(BERN)
            await mgr.reader(deferrable=True).scalar(COUNT)

    await asyncio.gather(*(work() for _ in range(5)))
    await until(lambda: not out(mgr))


@in_loop
async def test_a_child_reads_what_its_parent_wrote(options: Any, replicated: Replicated) -> None:
    mgr = await settle(routed(options))
    await are_used(mgr, replicated)
    _, before = await count(mgr, BERN)
    await write(mgr, BERN)
    found = await asyncio.gather(*(count(mgr, BERN) for _ in range(4)))
    assert found == [("", before + 1)] * 4


@in_loop
async def test_who_wrote_nothing_reads_from_the_standbys(
    options: Any, replicated: Replicated
) -> None:
    mgr = await settle(routed(options))
    await are_used(mgr, replicated)
    await asyncio.create_task(write(mgr, BERN))
    name, _ = await count(mgr, BERN)
    assert name


@in_loop
async def test_a_cancelled_reader_leaves_nothing(options: Any, replicated: Replicated) -> None:
    mgr = await settle(routed(options))
    await are_used(mgr, replicated)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), mgr.schema(BERN, readonly=True) as session:
            await session.execute(text("SELECT pg_sleep(60)"))
    assert mgr.replicas is not None
    pools: list[Any] = [engine.pool for engine in mgr.replicas.engines]
    assert [pool.checkedout() for pool in pools] == [0, 0]
    assert (await count(mgr, BASEL))[0]


@pytest.mark.usefixtures("eager")
@in_loop
async def test_in_a_storm_each_task_reads_its_own_writes(
    options: Any, replicated: Replicated
) -> None:
    mgr = routed(options, pool_config={"pool_size": 3, "pool_timeout": 60})
    schemas = [f"towns-storm-{number}" for number in range(5)]
    await settle(mgr, *schemas)
    servers: set[str] = set()

    async def storm(seed: int) -> None:
        chance = random.Random(seed)
        written: dict[str, int] = {}
        for _ in range(25):
            schema = chance.choice(schemas)
            if chance.random() < 0.3:
                await write(mgr, schema)
                written[schema] = written.get(schema, 0) + 1
            if chance.random() < 0.5:
                name, found = await asyncio.create_task(count(mgr, schema))
            else:
                name, found = await count(mgr, schema)
            servers.add(name)
            assert found >= written.get(schema, 0)

    await are_used(mgr, replicated, *schemas)
    await asyncio.gather(*(storm(seed) for seed in range(10)))
    assert len(servers) == 3


@pytest.mark.usefixtures("eager")
@in_loop
async def test_nobody_waits_for_a_check(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mgr = await settle(routed(options))
    started = []
    assert mgr.replicas is not None
    monkeypatch.setattr(mgr.replicas, "_launch", started.append)
    for _ in range(3):
        await count(mgr, BERN)
    assert len(started) == 1
